"""What a step costs, here and in PyTorch; what its modes and Optax's optimizers do."""

"""What a step costs on many devices, and what the trainer's options cost."""

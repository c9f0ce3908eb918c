"""What many devices should bring, on paper; what the trainer's programs do here, measured."""

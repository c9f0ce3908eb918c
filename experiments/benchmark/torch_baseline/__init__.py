"""The same method and networks in PyTorch, to compare with; needs the extra ``torch``."""

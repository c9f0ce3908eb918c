"""Everything worth measuring on an accelerator, piece by piece."""

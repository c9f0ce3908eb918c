"""Everything worth measuring on an accelerator, in one program that can be stopped and goes on."""

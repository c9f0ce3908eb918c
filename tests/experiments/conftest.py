"""Makes this folder importable, so that the tests below it find ``forked``."""

"""Programs; run them as ``python -m experiments.NAME --help``."""

import sys

from l2rw_jax import _extras

try:
    _extras.require("train", *_extras.TRAIN)
except ImportError as error:
    sys.exit(f"Error: {error}")

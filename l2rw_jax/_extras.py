"""Optional dependencies: one line that names the extra to install."""

import importlib.util

TRAIN = (
    "PIL",
    "absl",
    "flax",
    "grain",
    "matplotlib",
    "ml_collections",
    "orbax",
    "scipy",
    "sklearn",
    "tensorflow_datasets",
    "tqdm",
)


def require(extra: str, *modules: str) -> None:
    """Raises ImportError, naming the extra, if one of the modules is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)}: not installed; takes the extra {extra!r}: "
            f"pip install 'l2rw_jax[{extra}]', or '.[{extra}]' in a clone."
        )

"""``ReweightClassifier``: training on noisy or imbalanced labels by scikit-learn's interface."""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from l2rw_jax.data.features import Standardised, blocks, check_rows_finite
from l2rw_jax.methods import get_method
from l2rw_jax.models import Model, create_model
from l2rw_jax.training.config import default_config
from l2rw_jax.training.errors import ConfigError
from l2rw_jax.training.fit import fit, probabilities
from l2rw_jax.training.workdir import write_json

_MODEL, _CONFIG, _FORMAT = "model.npz", "config.json", 1
_PIXELS = {"low": -1.0, "high": 1.0}
# Arrays are read as they are, and a memory map block by block.
_AS_IS: dict[str, Any] = {"dtype": "numeric", "allow_nd": True, "ensure_all_finite": False}


class ReweightClassifier(ClassifierMixin, BaseEstimator):
    """Networks trained on labels some of which are wrong.

    Attributes:
      classes_: ``[K]`` the labels, sorted.
      label_quality_: ``[n]`` how likely each training label is right, 0 to 1.
      weights_: ``[n]`` what each training example counted for in the training, 1 in the mean.
      method_: the method that was used.
    """

    def __init__(
        self,
        method: str = "auto",
        model: str = "mlp-256",
        *,
        networks: int = 3,
        steps: int | None = None,
        batch_size: int = 100,
        learning_rate: float = 0.05,
        class_weight: str | None = None,
        random_state: Any = 0,
        verbose: bool = False,
    ):
        self.method = method
        self.model = model
        self.networks = networks
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, trusted: Any = None) -> Self:
        """Trains the networks.

        Args:
          X: ``[n, d]`` features, or ``[n, h, w, c]`` uint8 images; a memory map is read as needed.
          y: ``[n]`` labels of two or more classes.
          trusted: which labels were verified, ``[n]`` bool; or a tuple ``(X, y)`` of verified
            examples; or None.

        Returns:
          The classifier itself.

        Raises:
          ValueError: an argument cannot be used; the message says what can.
        """
        X, y = validate_data(self, X, y, **_AS_IS)
        _check_shape("X", X)
        check_classification_targets(y)
        check_rows_finite("X", X)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: got one class, {self.classes_[0]!r}; takes labels of two or more classes"
            )
        clean_X, clean_labels = self._clean(X, labels, trusted)
        self.method_ = self.method
        if self.method == "auto":
            self.method_ = "gce" if trusted is None else "evidence"
        if get_method(self.method_).needs == "clean" and trusted is None:
            raise ValueError(
                f"trusted: got None; takes verified examples where method={self.method!r}, as a "
                "mask [n] or a tuple (X, y); methods without them are auto, gce and baseline"
            )
        self._shape = X.shape[1:] if X.ndim == 4 else (1, 1, X.shape[1])
        if X.ndim == 2:
            scaler = StandardScaler()
            for _, block in blocks(X):
                scaler.partial_fit(block.astype(np.float64))
            self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        rows = self._rows(X)
        try:
            _, fitted = fit(
                self._config(len(X), len(clean_X)),
                rows,
                labels,
                self._rows(clean_X)[:],
                clean_labels,
                len(self.classes_),
                progress=self.verbose,
            )
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("config.")) from None
        self._params, self._model_state = fitted.params, fitted.model_state
        weights = fitted.weights / (fitted.weights.mean() or 1.0)
        self.weights_ = weights
        self.label_quality_ = _quality(self._probabilities(rows), labels)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The classes' probabilities, ``[n, K]``, the mean over the networks."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, **_AS_IS)
        self._check_like_fit("X", X)
        return self._probabilities(self._rows(X))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest classes, ``[n]``."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes model.npz and config.json."""
        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"params": self._params, "model_state": self._model_state}
        arrays |= {"weights": self.weights_, "label_quality": self.label_quality_}
        if hasattr(self, "mean_"):
            arrays |= {"mean": self.mean_, "scale": self.scale_}
        np.savez(folder / _MODEL, **flatten_dict(arrays, sep="/"))
        parameters = self.get_params()
        if not isinstance(self.random_state, int):
            parameters["random_state"] = None
        about = {
            "format": _FORMAT,
            "parameters": parameters,
            "method": self.method_,
            "classes": self.classes_.tolist(),
            "classes_dtype": str(self.classes_.dtype),
            "shape": self._shape,
            "n_features_in": self.n_features_in_,
            "feature_names": getattr(self, "feature_names_in_", None),
        }
        write_json(folder / _CONFIG, about)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The classifier that ``save`` wrote."""
        about = json.loads(Path(folder, _CONFIG).read_text())
        with np.load(Path(folder, _MODEL)) as file:
            arrays = unflatten_dict(dict(file), sep="/")
        self = cls(**about["parameters"])
        self.method_, self._shape = about["method"], tuple(about["shape"])
        self.classes_ = np.array(about["classes"], about["classes_dtype"])
        self.n_features_in_ = about["n_features_in"]
        if about["feature_names"] is not None:
            self.feature_names_in_ = np.array(about["feature_names"], object)
        if "mean" in arrays:
            self.mean_, self.scale_ = arrays["mean"], arrays["scale"]
        self.weights_, self.label_quality_ = arrays["weights"], arrays["label_quality"]
        self._params, self._model_state = arrays["params"], arrays.get("model_state", {})
        return self

    def _config(self, n: int, m: int) -> Any:
        """The trainer's config: a recipe that works on a wide range of data."""
        # 40 epochs, in hundreds.
        steps = self.steps or min(4000, max(500, 40 * n // self.batch_size))
        chunk = min(steps, 100)
        steps = -(-steps // chunk) * chunk
        config = default_config()
        config.update(
            method=self.method_,
            model=self.model,
            replicas=self.networks,
            seed=int(check_random_state(self.random_state).randint(2**31)),
            batch_size=min(self.batch_size, n),
            clean_size=m,
            clean_batch_size=min(100, m),
            steps=steps,
            log_every=chunk,
            eval_every=steps,
            checkpoint_every=steps,
            learning_rate=self.learning_rate,
            boundaries=(steps // 2, 3 * steps // 4) if steps >= 4 else (),
            weight_decay=1e-3,
            clip_norm=5.0,
            balanced=self.class_weight == "balanced",
            **_PIXELS,
        )
        return config

    def _clean(self, X: Any, labels: np.ndarray, trusted: Any) -> tuple[Any, np.ndarray]:
        """The trusted examples; where there are none, one that no method looks at."""
        if trusted is None:
            return X[:1], labels[:1]
        if isinstance(trusted, tuple):
            clean_X, clean_y = trusted
            clean_X, clean_y = check_array(clean_X, **_AS_IS), column_or_1d(clean_y)
            codes = {label: code for code, label in enumerate(self.classes_.tolist())}
            return clean_X, np.array([codes[label] for label in clean_y.tolist()])
        mask = np.asarray(trusted)
        if mask.dtype != bool or mask.shape != labels.shape:
            raise ValueError(
                f"trusted: got {mask.dtype} of shape {mask.shape}; takes a mask of bool of shape "
                f"{labels.shape}, or a tuple (X, y)"
            )
        return X[mask], labels[mask]

    def _rows(self, X: Any) -> Any:
        return X if X.ndim == 4 else Standardised(X, self.mean_, self.scale_)

    def _probabilities(self, rows: Any) -> np.ndarray:
        model = _network(self.model, len(self.classes_), self._shape)
        return probabilities(model, self._params, self._model_state, rows, **_PIXELS)

    def _check_like_fit(self, argument: str, X: Any) -> None:
        _check_shape(argument, X)
        check_rows_finite(argument, X)


@functools.lru_cache(maxsize=8)
def _network(name: str, num_classes: int, shape: tuple[int, int, int]) -> Model:
    """The network of that name, the same object each time: what it compiles to is kept by it."""
    return create_model(name, num_classes=num_classes, image_shape=shape)


def _quality(probabilities: np.ndarray, labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """How likely each label is right, ``[n]``: its probability."""
    return probabilities[np.arange(len(labels)), labels]


def _check_shape(argument: str, X: Any) -> None:
    if X.ndim != 2 and not (X.ndim == 4 and X.dtype == np.uint8):
        raise ValueError(
            f"{argument}: got {X.dtype} of shape {X.shape}; takes features [n, d], or uint8 images "
            "[n, h, w, c]"
        )

"""``ReweightClassifier``: training on noisy or imbalanced labels by scikit-learn's interface."""

import functools
import numbers
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from l2rw_jax import _extras

_extras.require("train", *_extras.TRAIN)

from flax.traverse_util import flatten_dict
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from l2rw_jax._messages import reason
from l2rw_jax._saved import FORMAT, Saved, put, read_saved
from l2rw_jax.data._check import check_finite, check_integer
from l2rw_jax.data.examples import (
    AS_IS,
    Trusted,
    absent_classes,
    check_finite_rows,
    check_numbers,
    check_shape,
    index_classes,
    is_pair,
    read_labels,
    read_trusted,
)
from l2rw_jax.data.scaling import Scaled, Scaling, fit_scaling, warn_elsewhere, warn_far
from l2rw_jax.methods import get_method
from l2rw_jax.models import Model, create_model
from l2rw_jax.quality import Beliefs, label_quality
from l2rw_jax.training.fit import fit, probability_blocks, recipe
from l2rw_jax.training.workdir import to_json

_PIXELS = {"low": -1.0, "high": 1.0}
_KEPT = 2**24  # probabilities that are kept for a second look; more are predicted again
_MANY = 20  # rows that are hardly of one class
_FALLBACK = "reed_soft"  # a robust loss that learns rare classes, where gce may not
_A_MASK = (
    "transform these rows as X is; in a pipeline, give trusted as a mask: a pair is not transformed"
)


class ReweightClassifier(ClassifierMixin, BaseEstimator):
    """A classifier for labels some of which are wrong, or whose classes are rare.

    It trains several networks side by side. ``weights_`` and ``label_quality_`` tell which labels
    to look at again. Each step draws a batch with replacement; the learning rate is a tenth after a
    half of the steps, and again after three quarters.

    Args:
      method: ``"auto"`` is ``"evidence"`` where there are trusted examples, else ``"gce"``, a
        robust loss, or ``"reed_soft"`` where that learns nothing of a class, such as a rare one;
        or any other of ``l2rw_jax.methods.METHODS``.
      model: ``mlp-H1-H2-...``; for images also ``vit-W-L``, ``lenet``, ``resnet-D``, ``wrn-D-K``.
      networks: how many are trained; their mean is predicted.
      steps: of each network, above 100 rounded up to hundreds; None: 20 epochs, but from 500 to
        8,000 steps, and one epoch at least.
      batch_size: examples of a batch, or all where there are fewer.
      learning_rate: that of SGD with momentum 0.9, at first.
      class_weight: ``"balanced"`` draws every class equally often.
      random_state: an integer, None, or a NumPy ``RandomState``.
      verbose: whether to show a progress bar.

    Attributes:
      classes_: the labels, sorted.  # shape=(K,)
      label_quality_: how likely each training label is right, 0 to 1.  # shape=(n,)
      weights_: what each training example counted for, 1 in the mean; 1 for an example that was
        never drawn.  # shape=(n,)
      method_: the method that was used.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> trusted = np.arange(len(y)) < 100
    >>> classifier = ReweightClassifier(model="mlp-32", networks=1, steps=200)
    >>> classifier.fit(X, y, trusted).score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        method: str = "auto",
        model: str = "mlp-256",
        *,
        networks: int = 5,
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

        Warns of values in X that are far from all others, and what else makes a result doubtful.

        Args:
          X: ``[n, d]`` features, of any numbers, which are scaled; or ``[n, h, w, c]`` uint8
            images. A memory map is never read whole at once.
          y: ``[n]`` labels of two or more classes.
          trusted: which labels were verified, ``[n]`` bool: they are trained on like all others,
            too. Or a pair ``(X, y)`` of verified examples beside: only methods that need them use
            these. In a pipeline give a mask: the steps before transform X, not a pair. ``"auto"``
            leaves trusted examples out unless they have every class. Or None.

        Returns:
          The classifier itself.

        Raises:
          ValueError, TypeError: an argument cannot be used; nothing was trained.
          RunError: the training diverged.
        """
        self._check_parameters()
        check_numbers("X", X)
        X, y = validate_data(self, X, y if y is None else read_labels("y", y), **AS_IS)
        names = getattr(self, "feature_names_in_", None)
        check_shape("X", X)
        self.classes_, labels = index_classes(y)
        self.method_ = self._choose_method(trusted is not None)
        shape = X.shape[1:] if X.ndim == 4 else (1, 1, X.shape[1])
        self._network = str(self.model), len(self.classes_), shape
        if X.ndim == 2 and not str(self.model).startswith("mlp"):
            raise ValueError(
                f"model: got {self.model!r} for features {list(X.shape)}; takes mlp-H1-H2-..., "
                "such as mlp-256; others are for images [n, h, w, c]"
            )
        _create(*self._network)
        check_finite_rows("X", X, names)
        clean = read_trusted(trusted, X, labels, self.classes_, names)
        if len(clean.absent):
            clean = self._without_classes(clean, X, labels)
        self._moments = None
        if X.ndim == 2:
            self._moments = fit_scaling("X", X, names)
            warn_far("X", X, self._moments, names, "all others")
            if is_pair(trusted):
                warn_elsewhere("trusted X", clean.X, self._moments, names, _A_MASK)
        seed = int(check_random_state(self.random_state).randint(2**31))
        beliefs = self._train(X, labels, clean, seed)
        if self.method == "auto" and self.method_ == "gce" and self._misses(beliefs, labels):
            self.method_ = _FALLBACK
            beliefs = self._train(X, labels, clean, seed)
        self.label_quality_ = label_quality(beliefs, labels)
        return self

    def _train(self, X: Any, labels: np.ndarray, clean: Trusted, seed: int) -> Beliefs:
        """Trains by ``method_``; the networks' beliefs of the rows."""
        config = recipe(
            len(X),
            len(clean.X),
            steps=self.steps,
            batch_size=self.batch_size,
            method=self.method_,
            model=self._network[0],
            seeds=self.networks,
            seed=seed,
            learning_rate=self.learning_rate,
            balanced=self.class_weight == "balanced",
            **_PIXELS,
        )
        _, fitted = fit(
            config,
            self._rows(X),
            labels,
            self._rows(clean.X)[:],
            clean.labels,
            len(self.classes_),
            progress=bool(self.verbose),
        )
        self._params, self._model_state = fitted.params, fitted.model_state
        drawn = fitted.counts > 0
        mean = fitted.weights[drawn].mean() or 1.0  # clean_only's are all 0
        self.weights_ = np.where(drawn, fitted.weights / mean, 1)
        return self._training_beliefs(X)

    def _misses(self, beliefs: Beliefs, labels: np.ndarray) -> bool:
        """Whether some class of many rows is the likeliest of none."""
        many = np.bincount(labels, minlength=len(self.classes_)) >= _MANY
        for part in [beliefs] if isinstance(beliefs, np.ndarray) else beliefs:
            many[part.argmax(1)] = False
        return bool(many.any())

    def predict_proba(self, X: Any) -> np.ndarray:
        """The classes' probabilities, ``[n, K]``, the mean over the networks.

        Warns of rows that are unlike the training's, and of one class for all rows.
        """
        probabilities = self._beliefs(X).all()
        self._warn_of_one_class(probabilities.argmax(1))
        return probabilities

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest classes, ``[n]``; warns as ``predict_proba`` does."""
        chosen = np.concatenate([part.argmax(1) for part in self._beliefs(X)])
        self._warn_of_one_class(chosen)
        return self.classes_[chosen]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes model.npz and config.json, as one; it writes over those of an earlier save alone.

        Raises:
          ValueError, OSError: they cannot be written; the folder is as it was.
        """
        check_is_fitted(self)
        classes = self.classes_.tolist()
        if not all(isinstance(label, str | int | float) for label in classes):
            raise ValueError(
                f"classes_: got {type(classes[0]).__name__}; only text, numbers and bools can be "
                "saved: train on the labels as text"
            )
        arrays = {"params": self._params, "model_state": self._model_state}
        arrays |= {"weights": self.weights_, "label_quality": self.label_quality_}
        if self._moments is not None:
            arrays["moments"] = np.stack(self._moments)
        parameters = self.get_params()
        if not isinstance(self.random_state, numbers.Integral):
            parameters["random_state"] = None  # no generator can be kept
        about = {
            "format": FORMAT,
            "parameters": parameters,
            "method": self.method_,
            "classes": classes,
            "classes_dtype": self.classes_.dtype.str,
            "network": self._network,
            "n_features_in": self.n_features_in_,
            "feature_names": getattr(self, "feature_names_in_", None),
        }
        put(Path(folder), flatten_dict(arrays, sep="/"), to_json(about))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The classifier that ``save`` wrote.

        Raises:
          ValueError: the folder holds none that can be read.
        """
        try:
            saved = read_saved(Path(folder), _create)
            classifier = cls(**saved.parameters)
            classifier._check_parameters()
        except (OSError, ValueError, TypeError) as error:
            told = getattr(error, "strerror", None) or reason(error)
            raise ValueError(
                f"folder: {folder} holds no classifier that can be read ({told}); give a folder "
                "that ReweightClassifier.save wrote"
            ) from None
        return classifier._restore(saved)

    def _restore(self, saved: Saved) -> Self:
        self.method_, self._network, self.classes_ = saved.method, saved.network, saved.classes
        self.n_features_in_ = saved.n_features_in
        if saved.feature_names is not None:
            self.feature_names_in_ = saved.feature_names
        arrays = saved.arrays
        self._moments = arrays.get("moments")
        self.weights_, self.label_quality_ = arrays["weights"], arrays["label_quality"]
        self._params, self._model_state = arrays["params"], arrays.get("model_state", {})
        return self

    def _add_networks(self, other: Self, X: Any, y: Any) -> Self:
        """Takes in the networks of another classifier, fitted to the same X and y.

        What it predicts, ``label_quality_`` and ``weights_`` are then by all networks alike.
        """
        mine, others = ((c._params, c._model_state) for c in (self, other))
        counts = [len(jax.tree.leaves(c._params)[0]) for c in (self, other)]
        both = jax.tree.map(lambda *leaves: np.concatenate(leaves), mine, others)
        self._params, self._model_state = both
        self.weights_ = np.average([self.weights_, other.weights_], axis=0, weights=counts)
        array = check_array(X, estimator=self, **AS_IS)
        labels = np.searchsorted(self.classes_, np.asarray(y))
        self.label_quality_ = label_quality(self._training_beliefs(array), labels)
        return self

    def _check_parameters(self) -> None:
        if self.method != "auto" and get_method(self.method).needs == "truth":
            raise ValueError(
                f"method: got {self.method!r}, which needs the labels before corruption; takes "
                "auto, or a method without them, such as gce"
            )
        check_integer("networks", self.networks, 1, 1000)
        check_integer("batch_size", self.batch_size, 1, 2**20)
        if self.steps is not None:
            check_integer("steps", self.steps, 1, 2**30)
        if not check_finite("learning_rate", self.learning_rate) > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: give a number above 0")
        try:
            check_random_state(self.random_state)
        except ValueError:
            raise ValueError(
                f"random_state: got {self.random_state!r}; takes an integer in 0..{2**32 - 1}, "
                "None, or a NumPy RandomState"
            ) from None
        if self.class_weight not in (None, "balanced"):
            raise ValueError(f"class_weight: got {self.class_weight!r}; takes None or 'balanced'")

    def _choose_method(self, trusted: bool) -> str:
        if self.method == "auto":
            return "evidence" if trusted else "gce"
        if get_method(self.method).needs == "clean" and not trusted:
            raise ValueError(
                f"trusted: got None; takes a mask [n] or a tuple (X, y) of verified examples where "
                f"method={self.method!r}; without them, take method='auto'"
            )
        return self.method

    def _without_classes(self, clean: Trusted, X: Any, labels: np.ndarray) -> Trusted:
        """Warns of classes without a trusted example; "auto" does not take the others either."""
        told = absent_classes(clean.absent, len(self.classes_))
        if self.method != "auto":
            warnings.warn(f"{told}, which may never be predicted", UserWarning, stacklevel=3)
            return clean
        self.method_ = self._choose_method(False)
        told += "; none is used, since they would steer against such a class: verify a row of each"
        warnings.warn(told, UserWarning, stacklevel=3)
        return read_trusted(None, X, labels, self.classes_)

    def _rows(self, X: Any) -> Any:
        return X if self._moments is None else Scaled(X, Scaling(*self._moments))

    def _beliefs(self, X: Any) -> "_Beliefs":
        """The probabilities of new rows, which are checked."""
        check_is_fitted(self)
        check_numbers("X", X)
        array = check_array(X, estimator=self, **AS_IS)
        shape = self._network[2] if self._moments is None else (self.n_features_in_,)
        # Of the number of features scikit-learn has its own message, below.
        check_shape("X", array, None if len(shape) == 1 and array.ndim == 2 else shape)
        validate_data(self, X, reset=False, skip_check_array=True)  # number and names of features
        names = getattr(self, "feature_names_in_", None)
        check_finite_rows("X", array, names)
        if self._moments is not None:
            scaling = Scaling(*self._moments)
            if not warn_elsewhere("X", array, scaling, names, "transform them as those were"):
                warn_far("X", array, scaling, names, "those of the training")
        return _Beliefs(self, array)

    def _training_beliefs(self, X: Any) -> Beliefs:
        beliefs = _Beliefs(self, X)
        return beliefs.all() if len(X) * len(self.classes_) <= _KEPT else beliefs

    def _warn_of_one_class(self, chosen: np.ndarray) -> None:
        if len(chosen) >= _MANY and (chosen == chosen[0]).all():
            one = self.classes_.tolist()[chosen[0]]
            told = (
                f"X: all {len(chosen)} rows are predicted as {one!r}; "
                "if they are not all of it, are they as the training's, and are its classes of "
                'very unlike sizes (then class_weight="balanced")?'
            )
            warnings.warn(told, UserWarning, stacklevel=3)


class _Beliefs:
    """The probabilities ``[b, K]`` of an array's blocks of rows, predicted anew at every pass."""

    def __init__(self, classifier: ReweightClassifier, X: Any):
        self.classifier, self.X = classifier, X

    def __iter__(self) -> Iterator[np.ndarray]:
        own = self.classifier
        model, rows = _create(*own._network), own._rows(self.X)
        return probability_blocks(model, own._params, own._model_state, rows, **_PIXELS)

    def all(self) -> np.ndarray:
        """``[n, K]``."""
        whole = np.empty((len(self.X), len(self.classifier.classes_)), np.float32)
        start = 0
        for part in self:
            whole[start : start + len(part)] = part
            start += len(part)
        return whole


@functools.lru_cache(maxsize=8)
def _create(name: str, num_classes: int, shape: tuple[int, int, int]) -> Model:
    """The network of that name, the same object each time: what it compiles to is kept by it."""
    try:
        return create_model(name, num_classes=num_classes, image_shape=shape)
    except ValueError as error:
        raise ValueError(str(error).replace("name:", "model:", 1)) from None

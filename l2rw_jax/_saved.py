"""The two files of a saved classifier: replaced as one, and read as data, for none is trusted."""

import io
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from l2rw_jax._files import check_place, sync, write_whole
from l2rw_jax.data._check import describe, reason
from l2rw_jax.data._foreign import Arrays, Header, open_arrays, read_json
from l2rw_jax.methods import get_method
from l2rw_jax.models import Model

MODEL, CONFIG, FORMAT = "model.npz", "config.json", 1

_FIELDS: dict[str, tuple[type, ...]] = {  # of config.json
    "format": (int,),
    "parameters": (dict,),
    "method": (str,),
    "classes": (list,),
    "classes_dtype": (str,),
    "network": (list,),
    "n_features_in": (int,),
    "feature_names": (list, type(None)),
}
_PARAMETERS: dict[str, tuple[type, ...]] = {  # what the classifier does not check of them
    "method": (str,),
    "model": (str,),
    "verbose": (bool, int),
}
_CLASSES_BYTES = 2**26
_BY_LAYERS = re.compile(r"(?:resnet|wrn)-(\d+)(-\d+)?")

Network = tuple[str, int, tuple[int, int, int]]  # name, number of classes, image shape


class Saved(NamedTuple):
    """What a classifier's files hold, checked; all parts fit together.

    Attributes:
      parameters: of the constructor; most are for the classifier to check.
      method: the one that was used.
      network: its name, number of classes and image shape.
      classes: sorted.  # shape=(K,)
      feature_names: None where the features had no names.  # shape=(d,), dtype=object
      n_features_in: features, or the height of images.
      arrays: ``weights`` and ``label_quality`` ``[n]``; ``params`` and perhaps ``model_state`` of
        the networks, with a leading axis for these; of features, ``moments`` ``[4, d]``, the
        parts of their ``Scaling``.
    """

    parameters: dict[str, Any]
    method: str
    network: Network
    classes: np.ndarray
    feature_names: np.ndarray | None
    n_features_in: int
    arrays: dict[str, Any]


def put(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes both files, over those of an earlier call alone.

    The new arrays get their name last. If the process is killed before, config.json says which they
    are: see `model_file`.

    Args:
      folder: made if absent.
      arrays: for model.npz.
      about: for config.json.

    Raises:
      ValueError: the folder has a file of these names that no earlier call wrote.
      OSError: they cannot be written; the earlier ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _earlier(folder / CONFIG)
    for name in (CONFIG, MODEL):
        check_place(folder / name)
        if earlier is None and (folder / name).exists():
            raise ValueError(
                f"folder: {folder} holds a {name} that save did not write; give another folder"
            )
    if earlier and (unfinished := model_file(folder, earlier)).name != MODEL:
        os.replace(unfinished, folder / MODEL)
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    part = folder / f".model-{secrets.token_hex(8)}.npz"
    text = json.dumps({**about, "unfinished": part.name}, indent=2) + "\n"
    try:
        write_whole(part, file.getvalue())
        write_whole(folder / CONFIG, text.encode())
    except BaseException:
        if (_earlier(folder / CONFIG) or {}).get("unfinished") != part.name:
            part.unlink(missing_ok=True)
        raise
    os.replace(part, folder / MODEL)
    sync(folder)


def model_file(folder: Path, about: Mapping[str, Any]) -> Path:
    """Where the arrays are that belong to a config.json."""
    part = folder / str(about.get("unfinished"))
    ours = re.fullmatch(r"\.model-[0-9a-f]{16}\.npz", part.name) and part.parent == folder
    return part if ours and part.is_file() else folder / MODEL


def _earlier(config: Path) -> dict[str, Any] | None:
    """What an earlier call wrote; None where there is something else, or nothing."""
    try:
        about = json.loads(config.read_text())
        return about if {"format", "parameters", "classes", "network"} <= about.keys() else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def read_saved(folder: Path, create: Callable[[str, int, Any], Model]) -> Saved:
    """Reads what ``ReweightClassifier.save`` wrote.

    Args:
      folder: the folder.
      create: makes a network from its name, number of classes and image shape.

    Raises:
      ValueError: something else is there, or what no classifier would have.
      OSError: a file is not there, or is no regular file.
    """
    about = _read_config(folder / CONFIG)
    name, num_classes, shape = about["network"]
    classes = _read_classes(about["classes"], about["classes_dtype"])
    if len(classes) != num_classes:
        raise ValueError(f"classes: got {len(classes)} for a network of {num_classes!r}")
    with open_arrays(model_file(folder, about), compressed=False) as file:
        layers = _BY_LAYERS.fullmatch(name)
        if layers and len(layers[1]) < 10 and int(layers[1]) > len(file.names):
            raise ValueError(f"{MODEL}: fewer arrays than {name} has layers")
        shapes = _shapes(create(name, num_classes, tuple(shape)), num_classes, shape)
        arrays = _read_arrays(file, shapes, shape)
    columns = shape[2] if "moments" in arrays else shape[0]
    if about["n_features_in"] != columns:
        raise ValueError(f"n_features_in: got {about['n_features_in']} for {columns} columns")
    return Saved(
        about["parameters"],
        about["method"],
        (name, num_classes, tuple(shape)),
        classes,
        _read_names(about["feature_names"], columns),
        columns,
        arrays,
    )


def _read_config(path: Path) -> dict[str, Any]:
    about = read_json(path)
    if not isinstance(about, dict):
        raise ValueError(f"{CONFIG}: got {describe(about)}; takes an object")
    if about.get("format") != FORMAT:
        raise ValueError(f"it is of format {describe(about.get('format'))}, not {FORMAT}")
    if strange := sorted((about.keys() - {"unfinished"}) ^ _FIELDS.keys()):
        raise ValueError(f"{CONFIG}: {describe(strange[0])} is unknown or missing")
    _check_types(about, _FIELDS)
    _check_types(about["parameters"], _PARAMETERS)
    network = about["network"]
    kinds = [type(part) for part in network]
    if kinds != [str, int, list] or any(type(size) is not int for size in network[2]):
        raise ValueError("network: takes a name, a number of classes and an image shape")
    if get_method(about["method"]).needs == "truth":
        raise ValueError(f"method: got {about['method']!r}, which no classifier uses")
    return about


def _check_types(values: dict[str, Any], kinds: dict[str, tuple[type, ...]]) -> None:
    for name, allowed in kinds.items():
        if name in values and type(values[name]) not in allowed:  # a bool is no integer
            names = " or ".join(kind.__name__ for kind in allowed).replace("NoneType", "None")
            raise ValueError(f"{name}: got {describe(values[name])}; takes {names}")


def _read_classes(labels: list[Any], name: str) -> np.ndarray:
    """The labels as the array that they were, if it was sorted and held each once."""
    kinds = {type(label) for label in labels}
    if len(kinds) != 1 or not kinds <= {str, int, float, bool}:
        raise ValueError("classes: takes texts, numbers or bools, all of one type")
    try:
        dtype = np.dtype(name)
        if dtype.itemsize * len(labels) > _CLASSES_BYTES:
            raise ValueError("too long")
        classes = np.array(labels, dtype)
        kept = classes.tolist()
        same = kept == labels and {type(label) for label in kept} == kinds
        whole = classes.dtype.kind != "f" or np.isfinite(classes).all()
        "".join(map(str, labels)).encode()
    except Exception as error:  # whatever NumPy makes of the dtype's name
        raise ValueError(f"classes: are no {describe(name)} ({reason(error)})") from None
    if not same or not whole or not np.array_equal(np.unique(classes), classes):
        raise ValueError(f"classes: takes sorted labels of dtype {describe(name)}, each once")
    return classes


def _read_names(names: list[Any] | None, columns: int) -> np.ndarray | None:
    if names is None:
        return None
    if len(names) != columns or not all(isinstance(name, str) for name in names):
        raise ValueError(f"feature_names: takes {columns} texts, one a column")
    return np.array(names, object)


def _shapes(model: Model, num_classes: int, shape: list[int]) -> dict[str, tuple[int, ...]]:
    """The shapes of one network's arrays, by their names in the file; nothing is allocated."""
    try:
        params, model_state = jax.eval_shape(model.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((1, *shape), np.float32)
        logits, _ = jax.eval_shape(
            lambda *arguments: model.apply(*arguments, train=False), params, model_state, images
        )
        if logits.shape != (1, num_classes):
            raise ValueError(f"it gives {list(logits.shape)}")
    except Exception as error:  # whatever Flax makes of a size that no layer can have
        raise ValueError(f"network: cannot be built ({reason(error)})") from None
    arrays = flatten_dict({"params": params, "model_state": model_state}, sep="/")
    return {name: array.shape for name, array in arrays.items()}


def _read_arrays(
    file: Arrays, shapes: dict[str, tuple[int, ...]], image_shape: list[int]
) -> dict[str, Any]:
    """The arrays of model.npz: first what they are, then their values."""
    takes_features = image_shape[:2] == [1, 1] and "moments" in file.names
    own = {"weights", "label_quality"} | ({"moments"} if takes_features else set())
    if strange := sorted(set(file.names) ^ (shapes.keys() | own)):
        raise ValueError(f"{MODEL}: {describe(strange[0])} is unknown or missing")
    headers = {name: file.header(name) for name in file.names}
    networks, n = (_length(headers[name]) for name in (next(iter(shapes)), "weights"))
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        **{name: ((networks, *shape), "float32") for name, shape in shapes.items()},
        "weights": ((n,), "float"),
        "label_quality": ((n,), "float"),
        "moments": ((4, image_shape[2]), "float64"),
    }
    for name, header in headers.items():
        shape, kind = expected[name]
        if header.shape != shape or not str(header.dtype).startswith(kind):
            raise ValueError(f"{name} is {describe(header)}; takes {kind} {list(shape)}")
    arrays = {name: file.read(name) for name in file.names}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinity")
        if (name in ("weights", "label_quality") or name.endswith("/var")) and array.min() < 0:
            raise ValueError(f"{name} holds a number below 0")
    if takes_features and arrays["moments"][1:].min() <= 0:
        raise ValueError("moments holds a deviation or a limit that is not above 0")
    return unflatten_dict(arrays, sep="/")


def _length(header: Header) -> int:
    if not header.shape or not header.shape[0]:
        raise ValueError(f"{MODEL} holds an array of no networks or rows: {list(header.shape)}")
    return header.shape[0]

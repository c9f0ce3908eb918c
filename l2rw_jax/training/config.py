"""The fields of a run, their defaults and their checks."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from l2rw_jax.methods import get_method

IMBALANCES = ("none", "majority", "long_tail")
NOISES = ("none", "uniform", "background")
PARALLELS = ("none", "pmap", "shard_map")
_POSITIVE = (
    *("batch_size", "clean_batch_size", "clean_size", "log_every"),
    *("replicas", "micro_batches", "keep_checkpoints", "max_bad_steps"),
)
_NOT_NEGATIVE = ("seed", "val_size", "pad", "weight_decay", "clean_weight_decay", "clip_norm")


class RunError(RuntimeError):
    """A run that cannot go on: one line for the user; what was saved before is kept."""


class ConfigError(ValueError):
    """A run that cannot be as asked for: one line for the user, raised before any work starts."""


def default_config() -> ConfigDict:
    """Returns every field of a run with its default.

    >>> default_config().method
    'l2rw'
    """
    config = ConfigDict()
    config.method = "l2rw"
    config.seed = 0  # of initialisation, split, corruption and sampling, a stream each

    config.dataset = "digits"  # or synthetic-HxWxC-K, or any TFDS image-classification set
    config.data_dir = ""  # of TFDS sets; empty: $L2RW_DATA_DIR, then TFDS's own default
    config.classes = ()  # the classes to keep, relabelled 0, 1, ...; empty: all
    config.clean_size = 100  # trusted images, split from the training set
    config.clean_balanced = True  # equally many clean images a class, or drawn plainly
    config.clean_in_train = False  # whether they are trained on too: for methods without other use
    config.val_size = 0  # images of the hyper-validation set, noisy like the training set

    config.imbalance = ConfigDict()
    config.imbalance.kind = "none"  # none, majority or long_tail
    config.imbalance.share = 0.5  # majority: of the last class; long_tail: smallest over largest
    config.imbalance.total = 0  # majority: images in all
    config.noise = ConfigDict()
    config.noise.kind = "none"  # none, uniform or background
    config.noise.ratio = 0.0  # share of the labels (background: of the others) that are changed
    config.noise.background = 0  # background: the class that labels flip to

    config.model = "mlp-256-256"
    config.dropout = 0.0
    config.dtype = "float32"  # of computation; parameters stay float32
    config.low, config.high = 0.0, 1.0  # what black and white pixels become
    config.pad = 0  # pixels of padding before the random crop
    config.flip = False  # random horizontal flip

    config.batch_size = 100
    config.clean_batch_size = 100
    config.steps = 3000
    config.optimizer = "sgd(momentum=0.9)"  # any of Optax, with its arguments but the rate
    config.learning_rate = 0.1
    config.boundaries = ()  # (good) steps after which the learning rate is a tenth
    config.weight_decay = 0.0  # L2 on kernels, in the gradient
    config.clip_norm = 0.0  # largest norm of the weighted gradient; 0: unlimited
    config.clean_weight_decay = 0.0  # L2 on kernels in the clean loss, as the authors' code has it
    config.finetune_steps = 0  # steps on the clean set after config.steps, at the last rate

    config.replicas = 1  # seeds seed, seed + 1, ... trained side by side as one program
    config.parallel = "none"  # how devices share a batch: none (one device), pmap or shard_map
    config.batch_norm = "device"  # moments of each device's part of a batch, or global: of all
    config.micro_batches = 1  # parts that a batch is computed in, one after the other
    config.remat = False  # residual blocks are computed again in the backward pass, not kept
    config.stream = False  # training images stay on the host; each chunk's are sent ahead of it

    config.log_every = 100  # steps in one compiled call, averaged in one line of metrics
    config.eval_every = 500
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.max_bad_steps = 10  # steps in a row without a finite gradient after which a run ends
    return config


def with_variant(config: ConfigDict, variant: str, **variants: Mapping[str, Any]) -> ConfigDict:
    """Returns ``config`` with the named variant's fields, given by their dotted names.

    Raises:
      ConfigError: there is no such variant.

    >>> with_variant(default_config(), "smoke", smoke={"steps": 40}).steps
    40
    """
    if variant:
        _check_choice("config variant", variant, list(variants))
        config.update_from_flattened_dict(variants[variant])
    return config


def validate(config: ConfigDict) -> None:
    """Checks what can be checked of a config without its data.

    Raises:
      ConfigError: a field is unknown, has another type, or has a value outside its range.

    >>> config = default_config()
    >>> config.method = "l2rv"
    >>> validate(config)
    Traceback (most recent call last):
    l2rw_jax.training.config.ConfigError: config.method: got 'l2rv'; ... did you mean 'l2rw'?
    """
    _check_fields(config, default_config(), "config")
    try:
        get_method(config.method)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    _check_choice("config.imbalance.kind", config.imbalance.kind, IMBALANCES)
    _check_choice("config.noise.kind", config.noise.kind, NOISES)
    _check_choice("config.dtype", config.dtype, ("float32", "bfloat16"))
    _check_choice("config.parallel", config.parallel, PARALLELS)
    _check_choice("config.batch_norm", config.batch_norm, ("device", "global"))
    for field in _POSITIVE:
        _require(config[field] >= 1, f"config.{field}", config[field], "an integer above 0")
    for field in _NOT_NEGATIVE:
        _require(
            config[field] >= 0, f"config.{field}", config[field], "a number that is at least 0"
        )
    largest = 2**32 - config.replicas
    _require(config.seed <= largest, "config.seed", config.seed, f"an integer up to {largest}")
    _check_scale(config)
    for field in ("classes", "boundaries"):
        whole = all(type(value) is int and value >= 0 for value in config[field])
        _require(whole, f"config.{field}", config[field], "integers that are at least 0")
    _require(
        config.learning_rate > 0, "config.learning_rate", config.learning_rate, "a rate above 0"
    )
    _require(0 <= config.dropout < 1, "config.dropout", config.dropout, "a rate in [0, 1)")
    ratio = config.noise.ratio
    _require(0 <= ratio < 1, "config.noise.ratio", ratio, "a ratio in [0, 1)")
    _require(
        config.noise.kind != "none" or ratio == 0,
        "config.noise.ratio",
        ratio,
        "0 while config.noise.kind is none; name a kind of noise",
    )
    share = config.imbalance.share
    _require(0 < share < 1, "config.imbalance.share", share, "a ratio in (0, 1)")
    for field in ("steps", "eval_every", "checkpoint_every", "finetune_steps"):
        least = 0 if field == "finetune_steps" else 1
        _require(
            config[field] >= least and config[field] % config.log_every == 0,
            f"config.{field}",
            config[field],
            f"a multiple of config.log_every, which is {config.log_every}",
        )
    _require(
        config.clean_batch_size <= config.clean_size,
        "config.clean_batch_size",
        config.clean_batch_size,
        f"at most the clean set's size, config.clean_size={config.clean_size}",
    )


def _check_scale(config: ConfigDict) -> None:
    """What replicas, devices, micro-batches and streams ask of each other."""
    _require(
        config.parallel != "none" or config.batch_norm == "device",
        "config.batch_norm",
        config.batch_norm,
        "device while config.parallel is none",
    )
    alone = config.parallel == "none" and not config.stream
    _require(
        config.replicas == 1 or alone,
        "config.replicas",
        config.replicas,
        "1 where config.parallel or config.stream is set",
    )
    _require(
        jax.process_count() == 1 or config.parallel != "none",
        "config.parallel",
        config.parallel,
        "pmap or shard_map where several processes run",
    )
    devices = jax.device_count() if config.parallel != "none" else 1
    parts = devices * config.micro_batches
    for field in ("batch_size", "clean_batch_size"):
        _require(
            config[field] % parts == 0,
            f"config.{field}",
            config[field],
            f"a multiple of {parts}: {devices} devices times {config.micro_batches} micro-batches",
        )


def check_name(argument: str, got: str, allowed: Collection[str]) -> None:
    """Raises ``ConfigError`` with the nearest name unless ``got`` is one of ``allowed``."""
    if got not in allowed:
        nearest = difflib.get_close_matches(str(got), list(allowed), 1, cutoff=0)
        raise ConfigError(f"{argument}: no such field; did you mean {nearest[0]!r}?")


def _check_fields(config: ConfigDict, known: ConfigDict, path: str) -> None:
    if missing := sorted(set(known) - set(config)):
        raise ConfigError(
            f"{path}.{missing[0]}: missing; start from default_config() and change its fields."
        )
    for field, value in config.items():
        check_name(f"{path}.{field}", field, known)
        if isinstance(known[field], ConfigDict):
            _check_fields(value, known[field], f"{path}.{field}")
        elif not isinstance(value, type(known[field])):
            want = type(known[field]).__name__
            _require(
                want == "float" and type(value) is int, f"{path}.{field}", repr(value), f"a {want}"
            )


def _check_choice(argument: str, got: Any, allowed: Sequence[str]) -> None:
    if got not in allowed:
        nearest = difflib.get_close_matches(str(got), allowed, 1, cutoff=0)[0]
        takes = ", ".join(allowed)
        raise ConfigError(f"{argument}: got {got!r}; takes {takes}; did you mean {nearest!r}?")


def _require(condition: bool, argument: str, got: Any, takes: str) -> None:
    if not condition:
        raise ConfigError(f"{argument}: got {got}; takes {takes}.")

"""The fields of a run, their defaults and their checks."""

import copy
import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from l2rw_jax._messages import nearest
from l2rw_jax.methods import get_method
from l2rw_jax.training.errors import ConfigError

# A nested dict as one dict with dotted keys.
flatten = functools.partial(flatten_dict, sep=".")

IMBALANCES = ("none", "majority", "long_tail")
NOISES = ("none", "uniform", "background", "given")
PARALLELS = ("none", "pmap", "jit")
BATCH_NORMS = ("auto", "device", "global")
MODES = ("forward", "reverse", "finite_difference")
_POSITIVE = (
    *("batch_size", "clean_batch_size", "clean_size", "log_every", "steps", "eval_every"),
    *("checkpoint_every", "seeds", "micro_batches", "keep_checkpoints", "max_bad_steps"),
)
_NOT_NEGATIVE = (
    *("seed", "val_size", "pad", "weight_decay", "clean_weight_decay", "clip_norm"),
    *("finetune_steps", "imbalance.total", "noise.background", "l2rw.min_weight"),
)
_METHODS_WITH_FIELDS = ("l2rw",)
# Fields of version 0.2, and where they are now; None: the field is gone.
_MOVED = {
    "mode": "l2rw.mode",
    "inner": "l2rw.lookahead",
    "lookahead_mask": "l2rw.mask",
    "min_weight": "l2rw.min_weight",
    "weighting": None,
    "score_every": None,
    "equal_share": None,
    "replicas": "seeds",
}
_MOST = {"seeds": 1000, "micro_batches": 10_000, "keep_checkpoints": 10_000}

_TYPES = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "True or False",
    tuple: "a tuple",
}


def default_config() -> ConfigDict:
    """Returns every field of a run with its default.

    >>> default_config().method
    'l2rw'
    """
    config = ConfigDict()
    config.method = "l2rw"  # one of l2rw_jax.methods.METHODS
    config.l2rw = ConfigDict()  # of config.method=l2rw alone
    config.l2rw.mode = "forward"  # how scores are computed: forward, reverse, finite_difference
    config.l2rw.lookahead = ""  # the optimizer, as "adam(eps_root=1e-8)"; empty: plain SGD
    config.l2rw.mask = ""  # only these parameters look ahead, as "output/*"; empty: all
    config.l2rw.min_weight = 0.0  # least value of a score before the scores are normalised
    config.seed = 0  # for initialisation, split, corruption and sampling, a stream each

    config.dataset = "digits"  # or synthetic-HxWxC-K, npz:PATH, folder:PATH, or a TFDS image set
    config.data_dir = ""  # of TFDS sets; empty: $L2RW_DATA_DIR, then TFDS's own default
    config.classes = ()  # the classes to keep, relabelled 0, 1, ...; empty: all
    config.clean_size = 100  # trusted images, split from the training set
    config.clean_balanced = True  # equally many clean images per class; False: drawn uniformly
    config.clean_in_train = False  # also train on the clean images: for methods without other use
    config.val_size = 0  # images of the hyper-validation set, noisy like the training set

    config.imbalance = ConfigDict()
    config.imbalance.kind = "none"  # none, majority or long_tail
    config.imbalance.share = 0.5  # majority: the last class's; long_tail: smallest over largest
    config.imbalance.total = 0  # majority: number of images in all
    config.noise = ConfigDict()
    config.noise.kind = "none"  # none, uniform, background or given
    config.noise.ratio = 0.0  # share of labels that change; background: of the other classes'
    config.noise.background = 0  # background: the class that labels flip to
    config.noise.column = ""  # given: the second labels, to train on; the set's own are true

    config.model = "mlp-256-256"  # or lenet, resnet-D, wrn-D-K, vit-W-L: see l2rw_jax.models
    config.dropout = 0.0  # rate between the convolutions of a wrn's blocks
    config.dtype = "float32"  # the network computes in this type; parameters stay float32
    config.low, config.high = 0.0, 1.0  # what black and white pixels become
    config.pad = 0  # pixels of padding before the random crop
    config.flip = False  # random horizontal flip

    config.batch_size = 100  # training examples of a step, on all devices together
    config.balanced = False  # draw every class equally often
    config.clean_batch_size = 100  # clean examples of a step, at most clean_size
    config.steps = 3000  # training steps, a multiple of log_every
    config.optimizer = "sgd(momentum=0.9)"  # any of Optax, with its arguments except the rate
    config.learning_rate = 0.1  # the schedule's peak, first or only rate
    config.schedule = ""  # of the learning rate, as "cosine_decay_schedule"; empty: constant
    config.boundaries = ()  # steps after which the learning rate drops to a tenth
    config.weight_decay = 0.0  # L2 on kernels, in the gradient
    config.clip_norm = 0.0  # largest norm of the weighted gradient; 0: unlimited
    config.clean_smoothing = 0.0  # label smoothing in the clean loss
    config.clean_weight_decay = 0.0  # L2 on kernels in the clean loss, as the authors' code has it
    config.finetune_steps = 0  # steps on the clean set after config.steps, at the last rate
    config.ema = 0.0  # decay of an average of the parameters, which is evaluated too; 0: none

    config.seeds = 1  # how many: seed, seed + 1, ... train side by side as one program
    config.parallel = "none"  # how devices share a batch: none (one device), pmap, or jit
    config.fsdp = False  # jit: shard parameters and optimizer state over the devices
    config.batch_norm = "auto"  # moments per "device" (auto under pmap) or "global", over all
    config.micro_batches = 1  # compute a batch in so many parts, one after the other
    config.remat = False  # recompute residual or ViT blocks in the backward pass
    config.stream = False  # keep training images on the host and send them ahead of their steps

    config.log_every = 100  # steps in one compiled call, averaged in one line of metrics
    config.eval_every = 500  # steps between evaluations on the test set
    config.checkpoint_every = 1000  # steps between checkpoints
    config.keep_checkpoints = 2  # how many of the newest checkpoints are kept
    config.max_bad_steps = 10  # end a run after so many steps in a row that are not finite
    config.tensorboard = False  # also log to TensorBoard; needs the extra `tensorboard`
    return config.lock()


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


def validate(config: ConfigDict) -> ConfigDict:
    """Checks what can be checked of a config without its data.

    Args:
      config: some or all fields of ``default_config``.

    Returns:
      All fields, each in its own type.

    Raises:
      ConfigError: a field is unknown, has another type, or has a value outside its range.

    >>> config = default_config()
    >>> config.method = "l2rv"
    >>> validate(config)
    Traceback (most recent call last):
    l2rw_jax.training.errors.ConfigError: config.method: got 'l2rv'; ... did you mean 'l2rw'?
    """
    config = _typed(config)
    try:
        get_method(config.method)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    _check_choice("config.l2rw.mode", config.l2rw.mode, MODES)
    _check_own_fields(config)
    _check_choice("config.imbalance.kind", config.imbalance.kind, IMBALANCES)
    _check_choice("config.noise.kind", config.noise.kind, NOISES)
    dtypes = ("float32", "bfloat16") + ("float64",) * bool(jax.config.read("jax_enable_x64"))
    _check_choice("config.dtype", config.dtype, dtypes)
    _check_choice("config.parallel", config.parallel, PARALLELS)
    _check_choice("config.batch_norm", config.batch_norm, BATCH_NORMS)
    _check_ranges(config)
    _check_cadence(config)
    _check_scale(config)
    return config


def with_method(config: ConfigDict, method: str) -> ConfigDict:
    """A copy of ``config`` with another method; fields of other methods alone get their defaults.

    >>> config = default_config()
    >>> config.l2rw.mode = "reverse"
    >>> with_method(config, "l2rw").l2rw.mode, with_method(config, "baseline").l2rw.mode
    ('reverse', 'forward')
    """
    config, default = copy.deepcopy(config), default_config()
    config.method = method
    for name in _METHODS_WITH_FIELDS:
        if name != method and name in config:
            config[name] = default[name]
    return config


def _check_own_fields(config: ConfigDict) -> None:
    """Refuses a field of another method than the run's."""
    default = default_config()
    for name in _METHODS_WITH_FIELDS:
        for field, value in config[name].items():
            if name != config.method and value != default[name][field]:
                raise ConfigError(
                    f"config.{name}.{field}: got {value!r} with config.method={config.method}; "
                    f"takes {default[name][field]!r}, its default: only {name} uses it."
                )


def _typed(config: ConfigDict) -> ConfigDict:
    """``default_config()`` with the fields of ``config``, each in its own type and finite."""
    typed = default_config()
    known = flatten(typed.to_dict())
    for field, value in flatten(config.to_dict()).items():
        check_name(f"config.{field}", field, known)
        wanted = type(known[field])
        takes = _TYPES[wanted]
        # A ConfigDict takes None for anything, and a bool for a number.
        _require(isinstance(value, bool) == (wanted is bool), f"config.{field}", repr(value), takes)
        _require(value is not None, f"config.{field}", value, takes)
        try:
            typed.update_from_flattened_dict({field: value})
        except (TypeError, ValueError, OverflowError):
            _require(False, f"config.{field}", repr(value), takes)
        if wanted is float:
            _require(abs(value) <= 3e38, f"config.{field}", value, "a finite number of float32")
        elif wanted is int:
            _require(value < 2**32, f"config.{field}", value, "an integer below 2**32")
        elif wanted is str:
            printable = not value or value.isprintable()
            _require(printable, f"config.{field}", repr(value), "a text of one line")
    return typed


def _check_ranges(config: ConfigDict) -> None:
    """The range of each field by itself."""
    fields = flatten(config.to_dict())
    for field in _POSITIVE:
        _require(fields[field] >= 1, f"config.{field}", fields[field], "an integer above 0")
    for field in _NOT_NEGATIVE:
        value = fields[field]
        _require(value >= 0, f"config.{field}", value, "a number that is at least 0")
    for field, most in _MOST.items():
        _require(fields[field] <= most, f"config.{field}", fields[field], f"at most {most}")
    most = 2**32 - config.seeds
    _require(config.seed <= most, "config.seed", config.seed, f"an integer up to {most}")
    for field in ("classes", "boundaries"):
        values = config[field]
        whole = all(type(value) is int and 0 <= value < 2**31 for value in values)
        takes = "distinct integers that are at least 0"
        _require(whole and len(set(values)) == len(values), f"config.{field}", values, takes)
    ordered = config.boundaries == tuple(sorted(config.boundaries))
    _require(ordered, "config.boundaries", config.boundaries, "steps in their order")
    takes = f"less than config.high, which is {config.high}"
    _require(config.low < config.high, "config.low", config.low, takes)
    rate = config.learning_rate
    _require(rate > 0, "config.learning_rate", rate, "a rate above 0")
    for field in ("dropout", "ema", "clean_smoothing", "noise.ratio"):
        _require(0 <= fields[field] < 1, f"config.{field}", fields[field], "a number in [0, 1)")
    kind, ratio, column = config.noise.kind, config.noise.ratio, config.noise.column
    takes = f"0 while config.noise.kind is {kind}; name another kind of noise"
    _require(kind not in ("none", "given") or ratio == 0, "config.noise.ratio", ratio, takes)
    takes = f"'' while config.noise.kind is {kind}; the kind that reads it is given"
    if kind == "given":
        takes = "the name of the data set's labels to train on, as given_labels"
    _require((kind == "given") == bool(column), "config.noise.column", repr(column), takes)
    share = config.imbalance.share
    _require(0 < share < 1, "config.imbalance.share", share, "a number in (0, 1)")
    size = config.clean_batch_size
    takes = f"at most the clean set's size, config.clean_size={config.clean_size}"
    _require(size <= config.clean_size, "config.clean_batch_size", size, takes)


def _check_cadence(config: ConfigDict) -> None:
    """Everything else happens between two chunks of ``log_every`` steps."""
    every, last = config.log_every, config.steps + config.finetune_steps
    _require(last < 2**31, "config.steps", config.steps, "fewer than 2**31 steps in all")
    for field in ("steps", "eval_every", "checkpoint_every", "finetune_steps"):
        near = max(1, round(config[field] / every)) * every
        takes = f"a multiple of config.log_every, which is {every}; nearest: {near}"
        _require(config[field] % every == 0, f"config.{field}", config[field], takes)


def _check_scale(config: ConfigDict) -> None:
    """Which of several seeds, devices, micro-batches and streams go together."""
    parallel = config.parallel
    devices = jax.device_count() if parallel != "none" else 1
    takes = "False where config.parallel is not jit"
    _require(parallel == "jit" or not config.fsdp, "config.fsdp", True, takes)
    takes = "auto or global: jit's moments are those of the whole batch"
    device = config.batch_norm == "device"
    _require(parallel != "jit" or not device, "config.batch_norm", config.batch_norm, takes)
    alone = parallel == "none" and not config.stream and not config.tensorboard
    takes = "1 where config.parallel, config.stream or config.tensorboard is set"
    _require(config.seeds == 1 or alone, "config.seeds", config.seeds, takes)
    takes = "pmap or jit where several processes run"
    _require(jax.process_count() == 1 or parallel != "none", "config.parallel", parallel, takes)
    for field in ("batch_size", "clean_batch_size"):
        size = config[field]
        near = size // devices * devices  # downwards: the clean set has no more
        takes = f"a multiple of the {devices} devices; "
        takes += f"nearest: {near}" if near else "or take fewer devices"
        _require(size % devices == 0, f"config.{field}", size, takes)
        count = config.micro_batches
        if size // devices % count:
            near = max(n for n in range(1, count) if size // devices % n == 0)
            raise ConfigError(
                f"config.micro_batches: got {count}; takes a divisor of each device's part of "
                f"config.{field}, which is {size // devices}; nearest: {near}."
            )


def check_name(argument: str, got: str, allowed: Collection[str]) -> None:
    """Raises ``ConfigError`` with the nearest name unless ``got`` is one of ``allowed``."""
    if got in allowed:
        return
    if got in _MOVED:
        now = _MOVED[got]
        told = f"moved; it is config.{now} now" if now else "removed; leave it out"
        raise ConfigError(f"{argument}: {told} (version 0.3.0).")
    # By the whole name or by its last part, which is all that a locked config tells.
    names = {name.rpartition(".")[2]: name for name in allowed} | {name: name for name in allowed}
    near = difflib.get_close_matches(str(got), names, 1)
    guess = f"; did you mean {names[near[0]]!r}?" if near else ""
    raise ConfigError(f"{argument}: no such field{guess}")


def _check_choice(argument: str, got: Any, allowed: Sequence[str]) -> None:
    if got not in allowed:
        takes = ", ".join(allowed)
        raise ConfigError(
            f"{argument}: got {_short(repr(got))}; takes {takes}; "
            f"did you mean {nearest(got, allowed)!r}?"
        )


def _require(condition: bool, argument: str, got: Any, takes: str) -> None:
    if not condition:
        raise ConfigError(f"{argument}: got {_short(str(got))}; takes {takes}.")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."

"""From a config to everything its run needs: made once, checked, nothing written yet."""

import fnmatch
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from l2rw_jax import _extras
from l2rw_jax.methods import Method, get_method
from l2rw_jax.models import Model, create_model
from l2rw_jax.training.batches import Batches, make_batches, steps_per_call
from l2rw_jax.training.config import validate
from l2rw_jax.training.errors import ConfigError
from l2rw_jax.training.optimizers import (
    check_optimizer,
    make_lookahead,
    make_optimizer,
    make_schedule,
    with_weighting,
)
from l2rw_jax.training.parallel import AXIS, Engine, make_engine
from l2rw_jax.training.prepare import RunData, prepare_seeds
from l2rw_jax.training.state import TrainState, create_state, method_params, seed_keys
from l2rw_jax.training.step import Step, make_chunk, make_predict, make_step
from l2rw_jax.weightings import l2rw


class Cadence(NamedTuple):
    """When a run logs, evaluates and saves, in steps.

    Attributes:
      log: steps in one compiled call's line of metrics; all others are multiples of it.
      evaluate, save: steps from one evaluation, or checkpoint, to the next.
      train: steps before fine-tuning starts.
      last: steps in all.
    """

    log: int
    evaluate: int
    save: int
    train: int
    last: int


class Run(NamedTuple):
    """A run, ready to start.

    Attributes:
      config: the validated config, as ``config.json`` has it.
      data: the data on the host.
      model, optimizer, method, batches: what a step is made of.
      engine: how devices share the run.
      cadence: when it does what.
      num_steps: steps in one compiled call.
      chunk, finetune: ``num_steps`` steps, of training and of fine-tuning, to be compiled.
      predict: the classes of images, to be compiled.
      init: the state at step 0 of a seed, the confusion and the number of training examples.
      create: that of this run.
      key: of the steps; of several seeds, one each.
    """

    config: ConfigDict
    data: RunData
    model: Model
    optimizer: optax.GradientTransformation
    method: Method
    batches: Batches
    engine: Engine
    cadence: Cadence
    num_steps: int
    chunk: Step
    finetune: Step
    predict: Callable[..., jax.Array]
    init: Callable[..., TrainState]
    create: Callable[[], TrainState]
    key: jax.Array


def resolve(config: ConfigDict, prepared: tuple[RunData, int] | None = None) -> Run:
    """Makes everything a run needs, without writing or training anything.

    Args:
      config: some or all fields of ``default_config``.
      prepared: the data and the number of classes, as ``prepare_seeds`` returns them; None: as
        the config says.

    Raises:
      ConfigError: the run is not possible as configured.
    """
    config = validate(config)
    if config.tensorboard:
        try:
            _extras.require("tensorboard", "tensorboardX")
        except ImportError as error:
            raise ConfigError(f"config.tensorboard=True: {error}") from None
    try:
        run_data, num_classes = prepared or prepare_seeds(config)
    except MemoryError as error:
        raise ConfigError(f"config.dataset={config.dataset}: no memory for it: {error}") from None
    model = _make_model(config, run_data, num_classes)
    optimizer = make_optimizer(config)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    check_optimizer("config.optimizer", config.optimizer, optimizer, params)
    lookahead = make_lookahead(config)
    if lookahead is not None:
        check_optimizer("config.l2rw.lookahead", config.l2rw.lookahead, lookahead, params)
        try:
            l2rw(lookahead).init(params)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.l2rw.lookahead={config.l2rw.lookahead}: {error}") from error
    method = _make_method(config, params, lookahead)
    if method.init_weighting is not None:
        optimizer = with_weighting(optimizer)
    batches = make_batches(config, balanced=method.balanced or config.balanced)
    num_steps = steps_per_call(config)
    engine = make_engine(config, num_steps=num_steps)
    init = _make_init(config, model, optimizer, lookahead, method)
    create, key = _initial_state(config, init, run_data)
    _check_memory(config, engine.like(create), run_data)

    make = functools.partial(
        make_step,
        model=model,
        optimizer=optimizer,
        batches=batches,
        schedule=make_schedule(config),
        micro_batches=config.micro_batches,
        clean_smoothing=config.clean_smoothing,
        clean_weight_decay=config.clean_weight_decay,
        ema=config.ema,
        axis_name=engine.axis_name,
        shard=engine.shard,
        replicate=engine.replicate,
    )
    average_over = engine.axis_name if config.batch_norm != "global" else None
    chunk, finetune = (
        make_chunk(step, num_steps, average_over=average_over)
        for step in (make(method), make(get_method("clean_only"), finetune=True))
    )
    last = config.steps + config.finetune_steps
    return Run(
        config=config,
        data=run_data,
        model=model,
        optimizer=optimizer,
        method=method,
        batches=batches,
        engine=engine,
        cadence=Cadence(
            config.log_every, config.eval_every, config.checkpoint_every, config.steps, last
        ),
        num_steps=num_steps,
        chunk=chunk,
        finetune=finetune,
        predict=make_predict(model, batches),
        init=init,
        create=create,
        key=key,
    )


def _make_model(config: ConfigDict, run_data: RunData, num_classes: int) -> Model:
    shape = run_data.images.shape[1:]
    for field in ("pad", "flip"):
        if config[field] and shape[:2] == (1, 1):
            raise ConfigError(
                f"config.{field}: got {config[field]}; takes {type(config[field])()} for features, "
                "which cannot be cropped or mirrored."
            )
    if config.pad > min(shape[:2]):
        raise ConfigError(
            f"config.pad: got {config.pad}; takes at most {min(shape[:2])}, the side of an image."
        )
    across = config.parallel == "pmap" and config.batch_norm == "global"
    try:
        return create_model(
            config.model,
            num_classes=num_classes,
            image_shape=shape,
            dtype=config.dtype,
            dropout=config.dropout,
            batch_norm_axis=AXIS if across else None,
            remat=config.remat,
        )
    except ValueError as error:
        raise ConfigError(f"config.model={config.model[:80]}: {error}") from error


def _make_method(
    config: ConfigDict, params: optax.Params, lookahead: optax.GradientTransformation | None
) -> Method:
    """The method, l2rw with the look-ahead that the config asks for."""
    method, pattern = get_method(config.method), config.l2rw.mask
    names = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    if pattern and not fnmatch.filter(names, pattern):
        raise ConfigError(
            f"config.l2rw.mask: got {pattern!r}, which is no parameter's path; takes a "
            f"pattern of paths such as {names[-1]!r}."
        )

    def mask(params: optax.Params) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: fnmatch.fnmatchcase(_name(path), pattern), params
        )

    if config.method != "l2rw":
        return method
    weighting = l2rw(
        lookahead,
        mode=config.l2rw.mode,
        mask=mask if pattern else None,
        min_weight=config.l2rw.min_weight,
    )
    return method._replace(weighting=lambda info: weighting)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _make_init(
    config: ConfigDict,
    model: Model,
    optimizer: optax.GradientTransformation,
    lookahead: optax.GradientTransformation | None,
    method: Method,
) -> Callable[..., TrainState]:
    """A function for the state at step 0, of a seed, the confusion and the number of examples."""
    options: dict[str, Any] = {"lookahead": lookahead, "ema": config.ema > 0}

    def init(seed: ArrayLike, confusion: ArrayLike, num_train: int) -> TrainState:
        init_key, _ = seed_keys(seed)
        own = method_params(method, init_key, jnp.asarray(confusion))
        return create_state(init_key, model, optimizer, num_train, own, **options)

    return init


def _initial_state(
    config: ConfigDict, init: Callable[..., TrainState], run_data: RunData
) -> tuple[Callable[[], TrainState], jax.Array]:
    """A function for the state at step 0, and the key of the steps; of several seeds, of each."""
    num_train = run_data.train.index.shape[-1]
    if config.seeds == 1:
        _, key = seed_keys(config.seed)
        return lambda: init(config.seed, run_data.confusion, num_train), key
    seeds = np.arange(config.seed, config.seed + config.seeds, dtype=np.uint32)
    _, keys = jax.vmap(seed_keys)(seeds)
    create = functools.partial(init, num_train=num_train)
    return lambda: jax.vmap(create)(seeds, run_data.confusion), keys


def _check_memory(config: ConfigDict, state: TrainState, run_data: RunData) -> None:
    """Refuses a run whose state and images alone exceed the devices' memory."""
    devices = jax.local_devices() if config.parallel != "none" else jax.local_devices()[:1]
    divided = jax.device_count() if config.fsdp else 1
    needed = (_bytes(state) + _bytes(state.params)) // divided  # with the gradient
    needed += 0 if config.stream else _bytes(run_data.images)
    limits = devices[0].memory_stats() or {}
    if "bytes_limit" in limits:
        available = limits["bytes_limit"]
    else:  # the host's memory, which its devices share
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices)
    if needed > available:
        raise ConfigError(
            f"config.model={config.model}: its state, gradient and images take "
            f"{needed / 2**30:.1f} GiB, and a device has {available / 2**30:.1f} GiB; take a "
            "smaller model, config.stream, or config.fsdp on more devices."
        )


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

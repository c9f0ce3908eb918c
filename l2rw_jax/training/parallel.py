"""How devices share a run: where arrays live, and how a chunk of steps becomes one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from l2rw_jax.training.prepare import SEED_AXES

AXIS = "data"

Compiled = Callable[..., Any]


class Engine(NamedTuple):
    """One way to run chunks on devices; the functions take and return pytrees.

    Attributes:
      axis_name: the mapped axis that a step sees; None where it sees the whole batch.
      num_devices: devices that share a batch, of all processes.
      shard: inside a step, says that a batch's arrays are divided among the devices;
      replicate: that they lie whole on each.
      like: from ``create() -> state``, the shapes and places of a state, for a checkpoint to fill.
      init: from ``create() -> state``, that state on the devices.
      put_state: from what ``to_save`` returned, or a checkpoint gave, to the devices.
      put: from host arrays, the whole on every device.
      put_images: from a chunk's images ``[steps, b, h, w, c]`` (without the first axis where a
        chunk is one step), this process's columns; each device gets its part of the batch.
      compile: ``(chunk, state, *arguments) -> compiled``, a function of arguments like those; the
        state is donated.
      compile_predict: ``(predict, weights, images) -> compiled``, from weights on the devices and
        images ``[b, h, w, c]`` on the host, the same in all processes, to classes on the host.
      get: to host arrays, of what lies whole on every device.
      to_save: the state as a checkpoint takes it.
    """

    axis_name: str | None
    num_devices: int
    shard: Callable[[Any], Any]
    replicate: Callable[[Any], Any]
    like: Callable[[Callable[[], Any]], Any]
    init: Callable[[Callable[[], Any]], Any]
    put_state: Callable[[Any], Any]
    put: Callable[[Any], Any]
    put_images: Callable[[Any], Any]
    compile: Callable[..., Compiled]
    compile_predict: Callable[..., Compiled]
    get: Callable[[Any], Any]
    to_save: Callable[[Any], Any]


def make_engine(config: ConfigDict, *, num_steps: int) -> Engine:
    """The engine that a config asks for by ``parallel``, ``fsdp`` and ``seeds``.

    Args:
      config: a validated config.
      num_steps: steps in a chunk.

    Returns:
      The ``Engine``.
    """
    if config.parallel == "pmap":
        return _pmap(num_steps)
    # Process by process, since each supplies its columns of a batch.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if config.parallel == "none":
        devices = devices[:1]
    return _jit(devices, num_steps, fsdp=config.fsdp, several=config.seeds > 1)


def _jit(devices: Sequence[Any], num_steps: int, *, fsdp: bool, several: bool) -> Engine:
    """One program over a mesh, sharded by the compiler: the step sees whole arrays."""
    mesh = Mesh(np.array(devices), (AXIS,))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = NamedSharding(mesh, PartitionSpec(AXIS))
    columns = parts if num_steps == 1 else NamedSharding(mesh, PartitionSpec(None, AXIS))

    def place(array: Any) -> NamedSharding:
        """The sharding of an array of the state: with FSDP, along its largest divisible axis."""
        sizes = [n if n % len(devices) == 0 else 0 for n in array.shape]
        if not fsdp or not any(sizes):
            return whole
        axis = int(np.argmax(sizes))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))

    def like(create: Callable[[], Any]) -> Any:
        shapes = jax.eval_shape(create)
        places = jax.tree.map(place, shapes)
        # Of each training example, and read whole on the host, or row by row.
        places = places._replace(weight_sum=whole, margin_sum=whole, weight_count=whole)
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            places,
        )

    def init(create: Callable[[], Any]) -> Any:
        shardings = jax.tree.map(lambda x: x.sharding, like(create))
        return jax.jit(create, out_shardings=shardings)()

    def constrain(sharding: NamedSharding) -> Callable[[Any], Any]:
        if len(devices) == 1:
            return lambda tree: tree
        return lambda tree: jax.lax.with_sharding_constraint(tree, sharding)

    def compile_(chunk: Callable[..., Any], state: Any, *arguments: Any) -> Compiled:
        if several:
            chunk = jax.vmap(chunk, in_axes=(0, SEED_AXES, 0))
        out = (jax.tree.map(lambda x: x.sharding, state), whole)
        jitted = jax.jit(chunk, donate_argnums=0, out_shardings=out)
        return jitted.lower(state, *arguments).compile()

    def compile_predict(predict: Callable[..., Any], weights: Any, images: Any) -> Compiled:
        first, last = _share(len(images))

        def put_part(images: Any) -> jax.Array:
            return _from_processes(images[first:last], parts)

        jitted = jax.jit(predict, out_shardings=whole)
        compiled = jitted.lower(*weights, put_part(images)).compile()
        return lambda weights, images: np.asarray(compiled(*weights, put_part(images)))

    return Engine(
        axis_name=None,
        num_devices=len(devices),
        shard=constrain(parts),
        replicate=constrain(whole),
        like=like,
        init=init,
        put_state=lambda state: state,
        put=lambda tree: jax.tree.map(lambda x: _from_processes(x, whole), tree),
        put_images=lambda images: _from_processes(images, columns),
        compile=compile_,
        compile_predict=compile_predict,
        get=jax.device_get,
        to_save=lambda state: state,
    )


def _pmap(num_steps: int) -> Engine:
    """One program for each device, with a copy of the state and its part of the batch."""
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), (AXIS,))
    each = NamedSharding(mesh, PartitionSpec(AXIS))  # a leading axis with an entry a device

    def copies(x: Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(copies(jax.random.key_data(x)))
        return jax.device_put(np.broadcast_to(x, (len(devices), *x.shape)), each)

    def put(tree: Any) -> Any:
        return jax.tree.map(copies, tree)

    def divide(images: Any, axis: int) -> jax.Array:
        return jax.device_put(np.stack(np.split(np.asarray(images), len(devices), axis)), each)

    def like(create: Callable[[], Any]) -> Any:
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(create))

    def get(tree: Any) -> Any:
        return jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree))

    def compile_(chunk: Callable[..., Any], *arguments: Any) -> Compiled:
        program = jax.pmap(chunk, axis_name=AXIS, donate_argnums=0)
        if jax.process_count() > 1:  # pmap takes local arrays only where it compiles by itself
            return program
        return program.lower(*arguments).compile()

    def compile_predict(predict: Callable[..., Any], weights: Any, images: Any) -> Compiled:
        del weights, images
        program = jax.pmap(
            lambda *args: jax.lax.all_gather(predict(*args), AXIS, tiled=True), axis_name=AXIS
        )

        def run(weights: Any, images: Any) -> np.ndarray:
            first, last = _share(len(images))
            return get(program(*weights, divide(images[first:last], 0)))

        return run

    return Engine(
        axis_name=AXIS,
        num_devices=jax.device_count(),
        shard=lambda tree: tree,
        replicate=lambda tree: tree,
        like=like,
        init=lambda create: put(jax.device_get(jax.jit(create)())),
        put_state=put,
        put=put,
        put_images=lambda images: divide(images, 0 if num_steps == 1 else 1),
        compile=compile_,
        compile_predict=compile_predict,
        get=get,
        to_save=get,
    )


def _share(size: int) -> tuple[int, int]:
    """This process's rows of a batch: the first, and the one after the last."""
    share = size // jax.process_count()
    return jax.process_index() * share, (jax.process_index() + 1) * share


def _from_processes(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array over the devices of all processes, from each one's rows on the host."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_from_processes(jax.random.key_data(array), sharding))
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))

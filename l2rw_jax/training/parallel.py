"""How devices share a run: where its arrays lie, and how a chunk of steps becomes one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from l2rw_jax.training.prepare import REPLICA_AXES

AXIS = "data"


class Engine(NamedTuple):
    """One way to run chunks on devices; the functions take and return pytrees.

    Attributes:
      axis_name: the mapped axis that a step sees; None where it has a device to itself.
      compile: ``(chunk, *arguments) -> compiled``, a function of arguments like those, which are
        what ``put`` and ``put_images`` return; the first, the state, is donated.
      put: from host arrays, the whole on every device.
      put_images: from a chunk's images ``[steps, b, h, w, c]`` (without the first axis where a
        chunk is one step), this process's columns; each device gets its part of the batch.
      get: to host arrays.
    """

    axis_name: str | None
    compile: Callable[..., Any]
    put: Callable[[Any], Any]
    put_images: Callable[[Any], Any]
    get: Callable[[Any], Any]


def make_engine(config: ConfigDict, *, num_steps: int) -> Engine:
    """The engine that ``config.parallel`` and ``config.replicas`` ask for.

    Args:
      config: a validated config.
      num_steps: steps in a chunk.

    Returns:
      The ``Engine``.
    """
    if config.parallel == "shard_map":
        return _shard_map(num_steps)
    if config.parallel == "pmap":
        return _pmap(num_steps)

    def compile_(chunk: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        if config.replicas > 1:
            chunk = jax.vmap(chunk, in_axes=(0, REPLICA_AXES, 0))
        return jax.jit(chunk, donate_argnums=0).lower(*arguments).compile()

    def put(tree: Any) -> Any:
        return jax.tree.map(jnp.asarray, tree)

    return Engine(None, compile_, put, put, jax.device_get)


def _shard_map(num_steps: int) -> Engine:
    # Process by process, since each brings its columns of a batch.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    whole = NamedSharding(mesh, PartitionSpec())
    columns = PartitionSpec(AXIS) if num_steps == 1 else PartitionSpec(None, AXIS)

    def compile_(chunk: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        def call(state: Any, run_data: Any, key: jax.Array, images: Any = None) -> Any:
            return jax.shard_map(
                chunk,
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(), columns),
                out_specs=PartitionSpec(),
                check_vma=False,  # it cannot see that gathered values are the same everywhere
            )(state, run_data, key, images)

        return jax.jit(call, donate_argnums=0).lower(*arguments).compile()

    return Engine(
        AXIS,
        compile_,
        put=lambda tree: jax.tree.map(lambda x: _from_processes(x, whole), tree),
        put_images=lambda images: _from_processes(images, NamedSharding(mesh, columns)),
        get=jax.device_get,
    )


def _from_processes(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array over the devices of all processes, of what each has on the host."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_from_processes(jax.random.key_data(array), sharding))
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def _pmap(num_steps: int) -> Engine:
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    each = NamedSharding(mesh, PartitionSpec(AXIS))  # a leading axis with an entry a device

    def copies(x: Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(copies(jax.random.key_data(x)))
        return jax.device_put(np.broadcast_to(x, (len(devices), *x.shape)), each)

    def put_images(images: Any) -> jax.Array:
        axis = 0 if num_steps == 1 else 1
        return jax.device_put(np.stack(np.split(np.asarray(images), len(devices), axis)), each)

    def get(tree: Any) -> Any:
        return jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree))

    def compile_(chunk: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        program = jax.pmap(chunk, axis_name=AXIS, donate_argnums=0)
        if jax.process_count() > 1:  # pmap takes local arrays only where it compiles by itself
            return program
        return program.lower(*arguments).compile()

    return Engine(
        AXIS, compile_, lambda tree: jax.tree.map(copies, tree), put_images=put_images, get=get
    )

"""Where the passes of a step run: over which devices, and in which order."""

from typing import Any

import jax
import jax.numpy as jnp

from l2rw_jax._types import AxisName


def vary(tree: Any, axis_name: AxisName) -> Any:
    """Marks arrays inside ``shard_map`` so that a gradient by them is this device's share."""
    axes = {axis_name} if isinstance(axis_name, str) else set(axis_name or ())
    manual = tuple(axes & set(jax.sharding.get_abstract_mesh().manual_axes))
    if not manual:  # under vmap it is the share already
        return tree
    zero = 0 * jax.lax.axis_index(manual)  # unlike lax.pcast, fine if they vary already
    return jax.tree.map(lambda x: x + zero.astype(jnp.result_type(x)), tree)


def after(direction: list[jax.Array], params: list[jax.Array]) -> list[jax.Array]:
    """The parameters; on a CPU, the smallest of them wait for the clean pass's ``direction``.

    XLA's CPU scheduler would run the clean and the training pass concurrently and hold the
    activations of both (ResNet-32: 2.4 times a plain step's memory in place of 1.04); JAX 0.10's
    drops ``optimization_barrier``. An added zero orders the passes but copies what it is added to,
    so only the smallest arrays get it, a twentieth of the parameters at most. Other compilers
    schedule for memory themselves; there, the training pass must not wait for the sum of the clean
    gradient over devices.
    """

    def wait(direction: list[jax.Array], params: list[jax.Array]) -> list[jax.Array]:
        budget, waiting = sum(p.size for p in params) / 20, list(params)
        for i in sorted(range(len(params)), key=lambda i: params[i].size):
            budget -= params[i].size
            if budget < 0:
                break
            waiting[i] = params[i] + 0 * jnp.nan_to_num(direction[i])
        return waiting

    def at_once(direction: list[jax.Array], params: list[jax.Array]) -> list[jax.Array]:
        return params

    params = [jnp.asarray(p) for p in params]
    ordered: list[jax.Array] = jax.lax.platform_dependent(
        direction, params, cpu=wait, default=at_once
    )
    return ordered

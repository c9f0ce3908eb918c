"""Checkpoints of the training state, by Orbax: a run that was stopped goes on where it was."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp


def open_checkpoints(workdir):
    """The checkpoints of a run, of which the newest two are kept."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(Path(workdir, "checkpoints").absolute(), options=options)


def restore_newest(checkpoints, state):
    """The newest checkpoint's state, or ``state`` itself where there is none yet."""
    step = checkpoints.latest_step()
    if step is None:
        return state
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return checkpoints.restore(step, args=ocp.args.StandardRestore(like))


def save(checkpoints, state):
    """Saves ``state`` under its step, whole or not at all."""
    checkpoints.save(int(state.step), args=ocp.args.StandardSave(state))

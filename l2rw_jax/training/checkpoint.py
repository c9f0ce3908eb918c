"""Checkpoints of the training state, by Orbax: a stopped run continues where it was."""

import contextlib
import errno
import functools
import gc
import json
import logging as standard_logging
import os
import secrets
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from l2rw_jax.training.errors import ConfigError, RunError
from l2rw_jax.training.state import TrainState

FORMAT = 3  # of what a checkpoint holds; raise it when TrainState changes
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)


@contextlib.contextmanager
def open_checkpoints(workdir: Path, keep: int) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of a run, the newest ``keep`` of them, written in the background.

    The context ends when everything is written, so no write overlaps another run in this folder.

    Raises:
      RunError: the folder, or the last checkpoint, cannot be written; earlier ones are kept. Or the
        folder has another one whose name is a number, which Orbax would remove as an old step.
    """
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(n=keep),
        cleanup_tmp_directories=True,  # of runs that were killed while they saved
    )
    folder = Path(workdir, "checkpoints").absolute()
    _check_own(folder)
    with without_tracebacks():
        with _told(folder):
            checkpoints = ocp.CheckpointManager(folder, options=options)
        try:
            yield checkpoints
        except BaseException:
            if jax.process_count() == 1:  # the others would have to wait too, or are gone
                with contextlib.suppress(OSError, ValueError):  # report the first error
                    checkpoints.wait_until_finished()
            raise
        finish(checkpoints)
        checkpoints.close()


def _check_own(folder: Path) -> None:
    for path in folder.glob("*"):
        if path.name.isdigit() and not (path / "_CHECKPOINT_METADATA").is_file():
            raise RunError(f"{path} is no checkpoint; move it away, and the same command goes on.")


def restore_newest(
    checkpoints: ocp.CheckpointManager, like: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest readable checkpoint's state and notes; None where there is no checkpoint.

    Args:
      checkpoints: as ``open_checkpoints`` yields them.
      like: shapes, dtypes and places of the state, as ``jax.ShapeDtypeStruct``, or host arrays.

    Raises:
      ConfigError: the checkpoint is of another format than this version's.
      RunError: there are checkpoints, but none can be read.
    """
    torn: list[int] = []
    for step in sorted(checkpoints.all_steps(), reverse=True):
        try:
            restored = _restore(checkpoints, step, like)
        except ConfigError:
            raise
        except Exception as error:  # a damaged file can fail in any reader, with any error
            logging.warning("checkpoint %d cannot be read (%s): trying the one before", step, error)
            torn.append(step)
            continue
        if torn:
            _set_aside(checkpoints, torn)
            gc.collect()  # as in without_tracebacks, here of the tasks that could not read
        return restored
    if torn:
        raise RunError(
            f"{checkpoints.directory}: none of the checkpoints {torn} can be read; put back a "
            "copy of one, or remove the workdir to start anew."
        )
    return None


def _set_aside(checkpoints: ocp.CheckpointManager, steps: list[int]) -> None:
    """Renames checkpoints that cannot be read, so that their steps can be saved again.

    They are not removed: who knows, the disk may give them back.
    """
    if jax.process_index() == 0:
        for step in steps:
            folder = Path(checkpoints.directory, str(step))
            aside = folder.with_name(f"unreadable-{step}-{secrets.token_hex(4)}")
            folder.rename(aside)
            logging.warning("checkpoint %d is set aside as %s", step, aside)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("set aside")
    checkpoints.reload()


def save(checkpoints: ocp.CheckpointManager, state: TrainState, notes: dict[str, Any]) -> None:
    """Saves ``state`` under its step, whole or not at all, and ``notes``, which JSON can hold.

    Raises:
      RunError: it, or the one before it, could not be written; earlier ones are kept.
    """
    about = {"format": FORMAT, "notes": notes}
    about["checksums"] = [int(_checksum(state)), _checksum_of_notes(notes)]
    step = int(np.max(state.step))
    # A CPU's arrays are the host's own, which the next steps write over.
    state = jax.tree.map(_copy, state)
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
    with _told(Path(checkpoints.directory)):
        checkpoints.save(step, args=args)


def finish(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until everything is written.

    Raises:
      RunError: the last checkpoint could not be written; earlier ones are kept.
    """
    with _told(Path(checkpoints.directory)):
        checkpoints.wait_until_finished()


def _copy(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return np.array(x)
    return jnp.copy(x) if jax.default_backend() == "cpu" else x


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """An error of the disk becomes a ``RunError``; others are left as they are."""
    reason = None
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore's errors are ValueErrors
        text = str(error)
        reason = next((r for r in map(os.strerror, _DISK) if r in text), None)
        if reason is None and isinstance(error, OSError):
            reason = error.strerror
        if reason is None:
            raise
    if reason is not None:  # out here, or the cause would keep Orbax's tasks alive
        raise RunError(
            f"{folder}: a checkpoint cannot be written ({reason}); make room and run the same "
            "command again: earlier checkpoints are kept."
        )


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """Logs no tracebacks out of Orbax: it raises the first, asyncio repeats those beside it."""
    added = leave_out_tracebacks()
    try:
        yield
    except BaseException:
        gc.collect()  # asyncio reports a task's exception when the task is deleted
        raise
    finally:
        for logger in added:
            logger.removeFilter(_is_news)


def leave_out_tracebacks() -> list[standard_logging.Logger]:
    """The same for the rest of the process; returns the loggers that did not do so before."""
    loggers = [logging.get_absl_logger(), standard_logging.getLogger("asyncio")]
    added = [logger for logger in loggers if _is_news not in logger.filters]
    for logger in added:
        logger.addFilter(_is_news)
    return added


def _is_news(record: standard_logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    frames = traceback.extract_tb(record.exc_info[2])
    # TensorStore's errors have no frames; they name the folder, 25.orbax-checkpoint-tmp.
    return not any("orbax" in x for x in (str(record.exc_info[1]), *(f.filename for f in frames)))


def _restore(
    checkpoints: ocp.CheckpointManager, step: int, like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    about = checkpoints.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
    about = about["about"]
    if about["format"] != FORMAT:
        raise ConfigError(
            f"{checkpoints.directory}: its checkpoints are of format {about['format']!r}, this "
            f"version's are of format {FORMAT}; take another workdir, or the version that wrote "
            "them."
        )
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    state = checkpoints.restore(step, args=args)["state"]
    if [int(_checksum(state)), _checksum_of_notes(about["notes"])] != about["checksums"]:
        raise ValueError("its bytes are not those that were written")
    return state, about["notes"]


def _checksum_of_notes(notes: dict[str, Any]) -> int:
    # As they will be read: JSON's keys are text, and text sorts otherwise than the steps it names.
    as_read = json.loads(json.dumps(notes))
    return zlib.crc32(json.dumps(as_read, sort_keys=True).encode())


@jax.jit
def _checksum(state: TrainState) -> jax.Array:
    """A checksum of all bits, the same wherever the arrays lie: sums modulo 2^32.

    Each word is multiplied by an odd number, by its place, so a change of one word always shows.
    """

    def words(x: jax.Array) -> jax.Array:
        if x.dtype == jnp.bool_ or x.dtype.itemsize < 4:
            narrow = jnp.uint16 if x.dtype.itemsize == 2 else jnp.uint8
            as_is = x.astype(narrow) if x.dtype == jnp.bool_ else x.view(narrow)
            return as_is.astype(jnp.uint32)
        return jax.lax.bitcast_convert_type(x, jnp.uint32)

    def of(x: jax.Array) -> jax.Array:
        x = words(x)
        place = jnp.zeros((), jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return jnp.sum(x * (2 * place + 1), dtype=jnp.uint32)

    sums = [of(x) for x in jax.tree.leaves(state)]
    return functools.reduce(lambda total, each: total * np.uint32(1_000_003) + each, sums)

"""Checkpoints of the training state, by Orbax: a run that was stopped goes on where it was."""

import contextlib
import errno
import logging as standard_logging
import os
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from l2rw_jax.training.config import ConfigError, RunError
from l2rw_jax.training.state import TrainState
from l2rw_jax.training.workdir import StrPath

FORMAT = 1  # of what a checkpoint holds; raise it when TrainState changes


def open_checkpoints(workdir: StrPath, keep: int) -> ocp.CheckpointManager:
    """The checkpoints of a run, the newest ``keep`` of them, written in the background."""
    logging.get_absl_logger().addFilter(_is_news)
    standard_logging.getLogger("asyncio").addFilter(_is_news)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,  # of runs that were killed while they saved
    )
    return ocp.CheckpointManager(Path(workdir, "checkpoints").absolute(), options=options)


def restore_newest(checkpoints: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The newest readable checkpoint's state on the host, or ``state`` where there is none.

    Args:
      checkpoints: as ``open_checkpoints`` returns them.
      state: the state at step 0, on the host.

    Raises:
      ConfigError: the checkpoint is of another format than this version's.
      RunError: there are checkpoints, but none can be read.
    """
    torn: list[int] = []
    for step in sorted(checkpoints.all_steps(), reverse=True):
        try:
            restored = _restore(checkpoints, step, state)
        except ConfigError:
            raise
        except Exception as error:  # torn files fail in as many ways as there are readers of them
            logging.warning("checkpoint %d cannot be read (%s): trying the one before", step, error)
            torn.append(step)
            continue
        for unreadable in torn:  # or the run could not save that step again
            checkpoints.delete(unreadable)
        return restored
    if torn:
        raise RunError(
            f"{checkpoints.directory}: none of the checkpoints {torn} can be read; put back a "
            "copy of one, or remove the workdir to start anew."
        )
    return state


def save(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """Saves ``state`` (host arrays) under its step, whole or not at all.

    Raises:
      RunError: it, or the one before it, could not be written; earlier ones are kept.
    """
    # A copy: on a CPU host arrays can be the device's own, which the next steps write over.
    state = jax.tree.map(np.array, state)
    about = {"format": FORMAT, "crc32": _checksum(state)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
    _written(checkpoints, lambda: checkpoints.save(int(np.max(state.step)), args=args))


def close(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until everything is written.

    Raises:
      RunError: the last checkpoint could not be written; earlier ones are kept.
    """
    _written(checkpoints, checkpoints.wait_until_finished)
    checkpoints.close()


@contextlib.contextmanager
def finished_on_error(checkpoints: ocp.CheckpointManager) -> Iterator[None]:
    """Lets no write go on in the background after an error, beside another run in this folder."""
    try:
        yield
    except BaseException:
        if jax.process_count() == 1:  # others would have to wait too, and may not be there
            with contextlib.suppress(OSError, ValueError):  # the first error is the one to tell
                checkpoints.wait_until_finished()
        raise


def _written(checkpoints: ocp.CheckpointManager, write: Callable[[], Any]) -> None:
    try:
        write()
    except (OSError, ValueError) as error:  # TensorStore's errors are ValueErrors
        text = str(error).strip().splitlines()[0]
        known = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))
        reason = next((reason for reason in known if reason in text), text[:200])
        raise RunError(
            f"{checkpoints.directory}: a checkpoint cannot be written ({reason}); make room and "
            "run the same command again: earlier checkpoints are kept."
        ) from error


def _is_news(record: standard_logging.LogRecord) -> bool:
    """False for tracebacks out of Orbax: it raises the first, asyncio repeats those beside it."""
    frames = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
    return not any("orbax" in frame.filename for frame in frames)


def _restore(checkpoints: ocp.CheckpointManager, step: int, state: TrainState) -> TrainState:
    about = checkpoints.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
    found = about["about"]["format"]
    if found != FORMAT:
        raise ConfigError(
            f"{checkpoints.directory}: its checkpoints are of format {found}, this version's are "
            f"of format {FORMAT}; take another workdir, or the version that wrote them."
        )
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    restored = checkpoints.restore(step, args=args)["state"]
    restored = jax.tree.map(np.asarray, restored)
    if _checksum(restored) != about["about"]["crc32"]:
        raise ValueError("its bytes are not those that were written")
    return restored


def _checksum(state: TrainState) -> int:
    checksum = 0
    for leaf in jax.tree.leaves(state):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, checksum)
    return checksum

"""Training images that stay on the host, or on disk, and reach the device ahead of their steps."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def stream(
    images: Any,
    rows_of: Callable[[int], Any],
    start: int,
    stop: int,
    *,
    columns: slice = slice(None),
    put: Callable[[np.ndarray], Any] = jax.device_put,
    num_threads: int | None = None,
) -> Iterator[Any]:
    """Iterates over chunks of batches of images, read and put on the device ahead of their use.

    The rows that a step draws follow from the seed and its number, so a stream has no position to
    save: starting at a later chunk is starting there. It reads what a gather on the device would.

    Grain's threads read the images of the next chunks. On the device lie the chunk in use and at
    most two more; on the host at most three. Close the iterator to stop the threads.

    Args:
        images: [N, H, W, C] uint8, whatever gives [b, H, W, C] when indexed with [b] rows.
        rows_of: the rows of a chunk, [K, b] integers, the same each time it is asked; called from
            threads.
        start: first chunk.
        stop: the chunk after the last.
        columns: which of the b images of a batch to read, such as one process's share.
        put: makes a chunk's images [K, b, H, W, C] what the iterator returns; called from a thread.
        num_threads: threads that read; None is one for each CPU core.

    Returns:
        An iterator over stop - start chunks, with a method `close`. What goes wrong in a thread is
        raised where the next chunk is asked for.

    Raises:
        ValueError: start or stop is negative, or start is after stop.

    >>> images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    >>> chunks = stream(images, lambda chunk: [[chunk, 9], [0, chunk]], 3, 5)
    >>> [chunk.ravel().tolist() for chunk in chunks]
    [[3, 9, 0, 3], [4, 9, 0, 4]]
    """
    import grain  # slow to import

    if not 0 <= start <= stop:
        raise ValueError(f"start is {start} and stop is {stop}: give 0 <= start <= stop")
    if start == stop:
        return (_ for _ in ())
    rows = functools.lru_cache(maxsize=4)(lambda chunk: np.asarray(rows_of(chunk))[:, columns])
    num_steps = len(rows(start))

    def read(step: int) -> np.ndarray:
        chunk, step = divmod(step, num_steps)
        return images[rows(chunk)[step]]

    threads = num_threads or os.cpu_count() or 1
    options = grain.ReadOptions(threads, prefetch_buffer_size=max(threads, num_steps))
    batches = grain.MapDataset.range(start * num_steps, stop * num_steps).map(read)
    on_device = batches.to_iter_dataset(options).batch(num_steps).map(put)
    iterator = iter(grain.experimental.ThreadPrefetchIterDataset(on_device, prefetch_buffer_size=1))
    return _until_closed(iterator)


def _until_closed(iterator: Any) -> Iterator[Any]:
    # Lets go of Grain's iterator when closed: one that outlives its use complains at exit.
    iterator.start_prefetch()
    try:
        yield from iterator
    finally:
        iterator.close()

"""Training images that stay on the host, or on disk, and reach the device ahead of their steps."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from l2rw_jax.data._check import check_array, check_integer


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
        images: [N, H, W, C] uint8 or floats, an array or whatever else has its shape and dtype and
            gives [b, H, W, C] when indexed with [b] rows.
        rows_of: the rows of a chunk, [K, b] integers in 0..N-1, the same each time it is asked;
            called from threads.
        start: first chunk, at least 0.
        stop: the chunk after the last, at least start.
        columns: which of the b images of a batch to read, such as one process's share.
        put: makes a chunk's images [K, b, H, W, C] what the iterator returns; called from a thread.
        num_threads: threads that read, at least 1; None is one for each CPU core.

    Returns:
        An iterator over stop - start chunks, with a method `close`. What goes wrong in a thread is
        raised where the next chunk is asked for.

    Raises:
        ValueError: images are not such an array, start, stop or num_threads is not such an
            integer, or the rows of a chunk are not such integers.

    >>> images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    >>> chunks = stream(images, lambda chunk: [[chunk, 9], [0, chunk]], 3, 5)
    >>> [chunk.ravel().tolist() for chunk in chunks]
    [[3, 9, 0, 3], [4, 9, 0, 4]]
    """
    import grain  # slow to import

    check_array("images", images, "uint8 or floats", "[N, H, W, C]")
    start = check_integer("start", start, 0)
    stop = check_integer("stop", stop, start)
    if num_threads is None:
        num_threads = os.cpu_count() or 1
    threads = check_integer("num_threads", num_threads, 1)
    if start == stop:
        return (_ for _ in ())

    @functools.lru_cache(maxsize=4)
    def rows(chunk: int) -> np.ndarray:
        rows = np.asarray(rows_of(chunk))
        check_array("rows_of's result", rows, "integers", "[K, b]")
        if rows.size and not (rows.min() >= 0 and rows.max() < images.shape[0]):
            span = f"{rows.min()}..{rows.max()}"
            raise ValueError(f"rows_of's result spans {span}: give 0..{images.shape[0] - 1}")
        return rows[:, columns]

    num_steps = len(rows(start))

    def read(step: int) -> np.ndarray:
        chunk, step = divmod(step, num_steps)
        return images[rows(chunk)[step]]

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

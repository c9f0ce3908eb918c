import contextlib
import io
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from l2rw_jax.data import ReadError, stream
from l2rw_jax.data._records import Records


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


class Source:
    """Encoded images that count how often each is read."""

    def __init__(self, images):
        self.reads = np.zeros(len(images), int)
        self.encoded = [png(image) for image in images]

    def __len__(self):
        return len(self.encoded)

    def __getitems__(self, rows):
        np.add.at(self.reads, rows, 1)
        return [{"image": self.encoded[row], "label": row % 3} for row in rows]


def decode(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


def make_records(size=12, shape=(4, 5, 3)):
    images = np.random.default_rng(0).integers(0, 256, (size, *shape), dtype=np.uint8)
    source = Source(images)
    return Records("tiny", source, decode, shape, lambda row: f"file {row // 8}"), source, images


def table(rows):
    """A run's rows [chunks, K, b] as stream asks for them."""
    return lambda chunk: jnp.asarray(rows[chunk])


def read_all(*args, **kwargs):
    with contextlib.closing(stream(*args, **kwargs)) as chunks:
        return [np.asarray(chunk) for chunk in chunks]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_equals_the_gather_on_the_device(data):
    size, chunks, num_steps, b = (data.draw(st.integers(1, most)) for most in (9, 4, 3, 5))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
    start = data.draw(st.integers(0, chunks))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    images = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
    rows = rng.integers(0, size, (chunks, num_steps, b), dtype=np.int32)
    got = read_all(images, table(rows), start, chunks, num_threads=data.draw(st.integers(1, 4)))
    assert len(got) == chunks - start
    for chunk, expected in zip(got, jnp.asarray(images)[rows[start:]], strict=True):
        np.testing.assert_array_equal(chunk, expected, strict=True)


def test_slow_reads_keep_their_order():
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)

    class Slow:
        shape, dtype = images.shape, images.dtype

        def __getitem__(self, rows):
            time.sleep(0.02 if rows[0] % 3 == 0 else 0)
            return images[rows]

    got = read_all(Slow(), table(np.arange(40).reshape(5, 4, 2)), 0, 5, num_threads=8)
    np.testing.assert_array_equal(np.ravel(got), np.arange(40))


def test_columns_of_all_processes_are_the_batch():
    _, _, images = make_records()
    rows = table(np.random.default_rng(0).integers(0, 12, (2, 3, 4)))
    whole = read_all(images, rows, 0, 2)
    parts = [read_all(images, rows, 0, 2, columns=slice(2 * i, 2 * i + 2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, 2), whole)


def test_chunks_are_put_ahead_of_their_use_and_not_further():
    _, _, images = make_records()
    done = []

    def put(chunk):
        done.append(threading.current_thread())
        return jax.device_put(chunk)

    with contextlib.closing(stream(images, lambda chunk: [[chunk]], 0, 9, put=put)) as chunks:
        next(chunks)
        deadline = time.monotonic() + 10
        while len(done) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(done) == 3  # the one in use, one waiting, and one that waits to wait
        assert threading.current_thread() not in done
    threads = [thread.name for thread in threading.enumerate() if "grain" in thread.name]
    assert not [name for name in threads if "grain-thread-prefetch" in name]


def test_an_error_of_a_thread_is_raised_at_its_chunk():
    records, source, images = make_records()
    source.encoded[7] = source.encoded[7][:-30]
    rows = np.array([[[0, 1]], [[2, 3]], [[4, 7]], [[5, 6]]])
    with contextlib.closing(stream(records, table(rows), 0, 4)) as chunks:
        for chunk in rows[:2]:
            np.testing.assert_array_equal(next(chunks), images[chunk])
        with pytest.raises(
            ReadError, match=r"^tiny: image 7 in file 0 cannot be read: .*trunc"
        ) as caught:
            next(chunks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["rows_of", "put"])
def test_an_error_of_a_callback_is_raised(where):
    def fail(_):
        raise KeyError(where)

    callbacks = {"rows_of": lambda chunk: [[chunk]], "put": lambda chunk: chunk} | {where: fail}
    with pytest.raises(KeyError, match=where):
        read_all(np.zeros((3, 2, 2, 1), np.uint8), callbacks["rows_of"], 0, 3, put=callbacks["put"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -1}, "start is -1: give an integer of at least 0"),
        ({"start": 3}, "stop is 2: give an integer of at least 3"),
        ({"stop": 2.0}, "stop is 2.0: give an integer of at least 0"),
        ({"num_threads": 0}, "num_threads is 0: give an integer of at least 1"),
        (
            {"images": np.zeros((3, 2, 2, 1), int)},
            "images is int64 [3, 2, 2, 1]: give uint8 or floats of shape [N, H, W, C]",
        ),
        (
            {"rows_of": lambda chunk: [chunk]},
            "rows_of's result is int64 [1]: give integers of shape [K, b]",
        ),
        ({"rows_of": lambda chunk: [[3]]}, "rows_of's result spans 3..3: give 0..2"),
        ({"rows_of": lambda chunk: [[-1]]}, "rows_of's result spans -1..-1: give 0..2"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(changes, message):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    good = {"images": images, "rows_of": lambda chunk: [[chunk]], "start": 0, "stop": 2}
    with pytest.raises(ValueError) as error:
        stream(**(good | changes))
    assert str(error.value) == message


def test_records_are_an_array_that_reads_what_is_asked_for():
    records, source, images = make_records()
    assert (len(records), records.shape, records.dtype) == (12, images.shape, images.dtype)
    for rows in (3, -1, slice(2, 5), [4, 4, 0], np.array([[1, 2], [2, 11]]), []):
        index = np.asarray(rows, int) if isinstance(rows, list) else rows
        source.reads[:] = 0
        np.testing.assert_array_equal(records[index], images[index], strict=True)
        np.testing.assert_array_equal(
            source.reads, np.bincount(np.arange(12)[index].ravel(), minlength=12)
        )
    with pytest.raises(IndexError):
        records[12]


def test_a_stream_reads_each_image_when_its_turn_comes():
    records, source, _ = make_records()
    read_all(records, table(np.array([[[0, 3], [3, 5]], [[1, 1], [2, 3]]])), 1, 2)
    np.testing.assert_array_equal(source.reads, [0, 2, 1, 1] + [0] * 8)


def test_an_image_of_another_shape_is_refused():
    records, source, _ = make_records()
    source.encoded[3] = png(np.zeros((1, 1, 3), np.uint8))
    message = r"^tiny: image 3 in file 0 cannot be read: its shape is \[1, 1, 3\], not \[4, 5, 3\];"
    with pytest.raises(ReadError, match=message):
        records[np.array([2, 3])]


def test_a_label_that_cannot_be_read_says_where_it_is():
    records, source, _ = make_records()
    assert records.labels().tolist() == [row % 3 for row in range(12)]
    good = source.__getitems__

    def bad(rows):
        if 9 in rows:
            raise RuntimeError("Corrupted file\nand more")
        return good(rows)

    source.__class__ = type("Bad", (Source,), {"__getitems__": lambda _, rows: bad(rows)})
    message = "tiny: image 9 in file 1 cannot be read: Corrupted file; restore that file"
    for read in (records.labels, lambda: records[8:]):
        with pytest.raises(ReadError) as error:
            read()
        assert str(error.value) == message

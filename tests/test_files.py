"""Files are written whole, over regular files alone."""

import errno
import os

import pytest

from l2rw_jax._files import replacing, write_whole


def test_a_file_is_replaced_and_nothing_else_is_there(tmp_path):
    for name in (".l2rw-unfinished", "a.tmp", "a.part"):
        (tmp_path / name).write_text("mine")
    os.link(tmp_path / "a.tmp", tmp_path / "a")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and (tmp_path / "a.tmp").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == [".l2rw-unfinished", "a", "a.part", "a.tmp"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask
    write_whole(tmp_path / ("é" * 120), b"")  # a name so long that none can be made of it


@pytest.mark.parametrize("error", [ValueError("a"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with pytest.raises(type(error)), replacing(tmp_path / "a") as file:
        file.write(b"new")
        raise error
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    told = {"link": errno.ELOOP, "nowhere": errno.ELOOP, "folder": errno.EISDIR}
    for name, number in (told | {"pipe": errno.EINVAL, "mine/a": errno.ENOTDIR}).items():
        with pytest.raises(OSError) as caught:
            write_whole(tmp_path / name, b"new")
        assert caught.value.errno == number
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "mine").read_text() == "mine"

"""Picture files as people see them: upright, in colour, what is transparent on white."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from l2rw_jax.data._check import reason
from l2rw_jax.data._foreign import open_regular

if TYPE_CHECKING:
    from PIL import Image

_MOST = 50_000_000  # pixels that all threads together decode at once; each takes 4 to 9 bytes
_PIECE = 2**26  # bytes
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and what swaps width and height
_SYSTEM = {".ds_store", ".ipynb_checkpoints", "__macosx", "desktop.ini", "thumbs.db"}


class PictureError(ValueError):
    """A file that is not read as a picture; its text is the reason and what to do."""

    def __init__(self, what: str, remedy: str = "restore or remove it"):
        super().__init__(f"{what}; {remedy}")
        self.reason = what


def is_system_file(name: str) -> bool:
    """Whether a system puts files or folders of this name beside people's own."""
    return name.lower() in _SYSTEM or name.startswith("._")


def read_picture(path: Path, side: int | None = None, *, stretch: bool = False) -> "Image.Image":
    """The picture in a file, the first one of an animation, in RGB.

    Args:
        path: the file.
        side: the picture is shrunk to this width and height at most; None leaves it as it is.
        stretch: whether it is resized to exactly side x side.

    Raises:
        PictureError: the file holds no picture, or one that 8 bits a channel do not hold.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        size = image.size
        if side is not None:
            image.draft(None, (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size,
        if not image.info.get("progressive"):  # though a progressive one is first kept whole
            size = image.size
        with _room.taken(_area(size)):
            picture = _only(_plain(image), image)
            if side is not None and stretch:
                picture = _only(picture.resize((side, side), reducing_gap=2.0), picture)
            elif side is not None:
                picture.thumbnail((side, side))
            with contextlib.suppress(Exception):  # viewers ignore damaged metadata, too
                ImageOps.exif_transpose(picture, in_place=True)
            if picture.mode not in ("LA", "RGBA"):
                return picture if picture.mode == "RGB" else picture.convert("RGB")
            white = Image.new("RGB", picture.size, "white")
            white.paste(picture, mask=picture)
            return white


def read_form(path: Path) -> tuple[tuple[int, int], bool]:
    """The width and height of the picture that `read_picture` gives, and whether it is grey.

    Raises:
        PictureError: as of `read_picture`, as far as the file's header tells.
    """
    from PIL import Image

    with _opened(path) as image:
        _area(image.size)
        turned = False
        with contextlib.suppress(Exception):
            # PngImageFile's own method decodes the picture.
            turned = Image.Image.getexif(image).get(_ORIENTATION) in _ON_ITS_SIDE
        if turned and image.format == "TIFF":  # some versions turn it when they load it
            image.load()
            turned = False
        width, height = image.size
        return (height, width) if turned else (width, height), image.mode in ("1", "L", "LA")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator["Image.Image"]:
    from PIL import Image, UnidentifiedImageError

    # From this size on, malloc gives the memory of a picture back; else each thread keeps it.
    Image.core.set_block_size(_PIECE)
    try:
        with open_regular(path) as file, Image.open(file) as image:
            _check(image)
            yield image
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("not a picture") from None
    except Image.DecompressionBombError:
        raise _too_large() from None
    except Exception as error:  # decoders fail in many ways
        known = getattr(error, "strerror", None)
        raise PictureError(known or f"damaged: {reason(error)}") from None


def _check(image: "Image.Image") -> None:
    if image.format == "EPS":
        raise PictureError("a program that draws a picture", "save it as PNG")
    # Which number is black and which is white, such a file does not say.
    layouts = [str(tile[3]) for tile in getattr(image, "tile", ())]
    deep = any(f";16{order}" in layout for layout in layouts for order in "LBN")
    if deep or image.mode.startswith(("I", "F")):
        raise PictureError(
            "more than 8 bits a channel", "save it with 8 bits, all pictures on one scale"
        )


def _area(size: tuple[int, int]) -> int:
    if size[0] * size[1] > _MOST:
        raise _too_large()
    return size[0] * size[1]


def _too_large() -> PictureError:
    return PictureError(f"more than {_MOST // 10**6} million pixels", "save it smaller")


def _plain(image: "Image.Image") -> "Image.Image":
    """The picture, loaded, in mode L, LA, RGB or RGBA: in these, resizing is right."""
    mode = "RGB"
    if image.mode in ("P", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        mode = "RGBA"
    elif image.mode in ("1", "L", "LA"):
        mode = image.mode.replace("1", "L")
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _only(image: "Image.Image", before: "Image.Image") -> "Image.Image":
    """An image, once the memory of the one that it was made from is free."""
    if before is not image:
        before.close()
    return image


class _Room:
    """Lets threads decode pictures at once as far as these have a number of pixels together."""

    def __init__(self, pixels: int):
        self._free, self._changed = pixels, threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_room = _Room(_MOST)

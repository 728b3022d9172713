"""The one door for pictures: files, bytes and pictures in memory, of known formats and bounded size, become RGB."""

import io
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from vitq.data.files import read_file, reason
from vitq.data.names import shown
from vitq.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "TGA")
"""What is opened: decoders in C that run nothing. HEIF is there where pillow-heif is; TGA has no magic, so it is last.

Pillow knows more, among them EPS, which it hands to Ghostscript.
"""
SECONDS = 60.0
"""How long one image may take. Decoders end by themselves, since pixels and bytes are bounded; this ends slow ones."""
PIXELS = 178_956_970
"""Pillow's own bound, which holds here too where ``Image.MAX_IMAGE_PIXELS`` was switched off."""
LONGEST_RATIO = 100
SMALLEST_SIDE = 8
ALPHA_NOTE = "transparency composited over white"
SIXTEEN_BIT_NOTE = "16-bit gray scaled to 8 bits"
FLOAT_NOTE = "floating-point gray taken as 0..1"

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_LOADING = tuple(Lock() for _ in range(64))


@dataclass(frozen=True)
class Decoded:
    """An RGB picture, and what had to be decided on the way to it."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def open_picture(path: Path) -> Image.Image:
    """Read a whole image file as it is stored; raise DataError naming the file when it is absent, no regular file,
    cut, or no image of ``FORMATS``.
    """
    name = shown(path.name)
    return decode_picture(read_file(path, name), name)


def decode_picture(content: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as they are stored; raise DataError as ``open_picture`` does."""
    try:
        with Image.open(_Timed(content), formats=_formats()) as image:
            return _loaded(image, name)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image of the formats {', '.join(_formats())}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too large to be a photograph ({error})") from error
    except Exception as error:  # as in ``_loaded``
        raise DataError(f"{name}: broken or cut short ({reason(error)})") from error


def load_picture(image: Image.Image, name: str) -> Image.Image:
    """Load the pixels of a picture in memory; raise DataError for one that is closed, cut, too large, or of another
    format than ``FORMATS`` and not decoded yet.
    """
    with _LOADING[hash(id(image)) % len(_LOADING)]:  # a picture that is listed twice is decoded by one thread
        return _loaded(image, name)


def to_rgb(image: Image.Image, name: str) -> Decoded:
    """Turn a picture upright and to 8-bit RGB; raise DataError for one below 8 pixels a side or without
    finite values.
    """
    if min(image.size) < SMALLEST_SIDE:
        raise DataError(f"{name}: {image.width}x{image.height} pixels, below {SMALLEST_SIDE} a side")
    upright = _upright(image)
    if upright.mode in _SIXTEEN_BIT_MODES:
        return _from_sixteen_bit(upright, name)
    if upright.mode == "F":
        return _from_float(upright, name)
    try:
        if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
            return _over_white(upright.convert("RGBA"))
        return Decoded(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except Exception as error:  # a palette or a transparency that does not fit the pixels
        raise DataError(f"{name}: {upright.mode} cannot be converted to RGB ({reason(error)})") from error


def _loaded(image: Image.Image, name: str) -> Image.Image:
    lazy = isinstance(image, ImageFile.StubImageFile) or bool(getattr(image, "tile", None))
    if lazy and image.format not in (*_formats(), "MPO"):  # MPO is a JPEG with more of them behind it
        raise DataError(f"{name}: of format {image.format}, which is not decoded; use {', '.join(_formats())}")
    width, height = image.size
    if width * height > PIXELS:
        raise DataError(f"{name}: {width}x{height} pixels, too large to be a photograph")
    if min(image.size) >= SMALLEST_SIDE and max(image.size) > LONGEST_RATIO * min(image.size):
        raise DataError(f"{name}: {width}x{height} pixels; one side is over {LONGEST_RATIO} times the other")
    try:
        image.load()
    except Exception as error:  # on damaged bytes Pillow's plugins raise whatever their parser stumbled over
        raise DataError(f"{name}: broken, closed or cut short ({reason(error)})") from error
    return image


class _Timed(io.BytesIO):
    """Bytes that end in an error where a decoder is still reading after ``SECONDS``."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._until = time.monotonic() + SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._until:
            raise TimeoutError(f"not decoded within {SECONDS:g} s")
        return super().read(size)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # malformed EXIF says nothing about the pixels
        return image


def _over_white(image_rgba: Image.Image) -> Decoded:
    if image_rgba.getchannel("A").getextrema() == (255, 255):
        return Decoded(image_rgba.convert("RGB"))
    white = Image.new("RGBA", image_rgba.size, "white")
    return Decoded(Image.alpha_composite(white, image_rgba).convert("RGB"), (ALPHA_NOTE,))


def _from_sixteen_bit(image: Image.Image, name: str) -> Decoded:
    values_HW = np.asarray(image, dtype=np.float64)
    low, high = values_HW.min(), values_HW.max()
    if low < 0 or high > 65535:
        raise DataError(f"{name}: gray from {low:.0f} to {high:.0f}, outside 0..65535; convert it to 8 or 16 bits")
    return Decoded(_gray(values_HW / 65535).convert("RGB"), (SIXTEEN_BIT_NOTE,))


def _from_float(image: Image.Image, name: str) -> Decoded:
    values_HW = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values_HW).all():
        raise DataError(f"{name}: holds NaN or infinity")
    if values_HW.min() < 0 or values_HW.max() > 255:
        raise DataError(f"{name}: floating-point pixels outside 0..255; convert it to 8 bits")
    if values_HW.max() <= 1:
        return Decoded(_gray(values_HW).convert("RGB"), (FLOAT_NOTE,))
    return Decoded(_gray(values_HW / 255).convert("RGB"))


def _gray(unit_HW: np.ndarray) -> Image.Image:
    """Values in 0..1 to an 8-bit gray picture; values outside are clipped."""
    return Image.fromarray(np.rint(np.clip(unit_HW, 0, 1) * 255).astype(np.uint8))

"""Any picture to RGB: gray, 16-bit, CMYK, palette, alpha, rotated by EXIF; what cannot be used is named."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitq.errors import DataError

SMALLEST_SIDE = 8
ALPHA_NOTE = "transparency composited over white"
SIXTEEN_BIT_NOTE = "16-bit gray scaled to 8 bits"
FLOAT_NOTE = "floating-point gray taken as 0..1"

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


@dataclass(frozen=True)
class Decoded:
    """An RGB picture, and what had to be decided on the way to it."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def open_picture(path: Path) -> Image.Image:
    """Read a whole image file as it is stored; raise DataError naming the file when it is absent, cut or no
    image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: no such file") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path.name}: not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path.name}: too large to be a photograph ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders raise all three for damaged files
        raise DataError(f"{path.name}: broken or cut short ({error})") from error


def to_rgb(image: Image.Image, name: str) -> Decoded:
    """Turn a picture upright and to 8-bit RGB; raise DataError for one below 8 pixels a side or without
    finite values.
    """
    if min(image.size) < SMALLEST_SIDE:
        raise DataError(f"{name}: {image.width}x{image.height} pixels, below {SMALLEST_SIDE} a side")
    upright = _upright(image)
    if upright.mode in _SIXTEEN_BIT_MODES:
        return Decoded(_gray(np.asarray(upright, dtype=np.float64) / 65535).convert("RGB"), (SIXTEEN_BIT_NOTE,))
    if upright.mode == "F":
        return _from_float(upright, name)
    if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
        return _over_white(upright.convert("RGBA"))
    return Decoded(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (
        OSError,
        SyntaxError,
        ValueError,
        KeyError,
        TypeError,
        struct.error,
    ):  # malformed EXIF says nothing about the pixels
        return image


def _over_white(image_rgba: Image.Image) -> Decoded:
    if image_rgba.getchannel("A").getextrema() == (255, 255):
        return Decoded(image_rgba.convert("RGB"))
    white = Image.new("RGBA", image_rgba.size, "white")
    return Decoded(Image.alpha_composite(white, image_rgba).convert("RGB"), (ALPHA_NOTE,))


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

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitq.data.decode import ALPHA_NOTE, FLOAT_NOTE, SIXTEEN_BIT_NOTE, open_picture, to_rgb
from vitq.errors import DataError

RED = (200, 30, 40)
SIZE = (24, 16)


def _rgb() -> Image.Image:
    return Image.new("RGB", SIZE, RED)


def _palette_with_transparency() -> Image.Image:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *RED] + [0] * 762)
    image.paste(0, (0, 0, 12, 16))
    image.info["transparency"] = 0
    return image


def _half_transparent(mode: str) -> Image.Image:
    image = Image.new("RGBA", SIZE, (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 12, 16))
    return image.convert(mode)


def _sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full(SIZE[::-1], 128 * 257, dtype=np.uint16))


KINDS: dict[str, tuple[Callable[[], Image.Image], str, tuple[int, int, int]]] = {
    "rgb": (_rgb, "png", RED),
    "gray": (lambda: Image.new("L", SIZE, 77), "jpg", (77, 77, 77)),
    "one bit": (lambda: Image.new("1", SIZE, 1), "png", (255, 255, 255)),
    "palette": (lambda: _rgb().quantize(4), "png", RED),
    "cmyk tiff": (lambda: Image.new("CMYK", SIZE, (0, 255, 255, 0)), "tif", (255, 0, 0)),
    "cmyk jpeg": (lambda: Image.new("CMYK", SIZE, (0, 255, 255, 0)), "jpg", (255, 0, 0)),
    "lab": (lambda: Image.new("LAB", SIZE, (255, 128, 128)), "tif", (255, 255, 255)),
    "ycbcr": (lambda: _rgb().convert("YCbCr"), "jpg", RED),
    "opaque rgba": (lambda: Image.new("RGBA", SIZE, (*RED, 255)), "png", RED),
    "rgba": (lambda: _half_transparent("RGBA"), "png", RED),
    "gray with alpha": (lambda: Image.new("LA", SIZE, (60, 255)), "png", (60, 60, 60)),
    "palette with transparency": (_palette_with_transparency, "png", RED),
    "16 bit": (_sixteen_bit, "png", (128, 128, 128)),
    "16 bit tiff": (_sixteen_bit, "tif", (128, 128, 128)),
    "32 bit": (lambda: Image.new("I", SIZE, 65535), "tif", (255, 255, 255)),
    "float": (lambda: Image.new("F", SIZE, 0.2), "tif", (51, 51, 51)),
    "float to 255": (lambda: Image.new("F", SIZE, 51.0), "tif", (51, 51, 51)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb_with_its_colour(tmp_path: Path, kind: str) -> None:
    make, suffix, colour = KINDS[kind]
    path = tmp_path / f"picture.{suffix}"
    image = make()
    image.save(path, **({"transparency": 0} if "transparency" in image.info else {}))

    decoded = to_rgb(open_picture(path), path.name)

    assert decoded.image.mode == "RGB" and decoded.image.size == SIZE
    found = decoded.image.getpixel((SIZE[0] - 2, SIZE[1] // 2))
    assert np.allclose(found, colour, atol=4), (found, colour)


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (_palette_with_transparency, (ALPHA_NOTE,)),
        (lambda: _half_transparent("RGBA"), (ALPHA_NOTE,)),
        (lambda: _half_transparent("LA"), (ALPHA_NOTE,)),
        (lambda: Image.new("RGBA", SIZE, (*RED, 255)), ()),
        (_sixteen_bit, (SIXTEEN_BIT_NOTE,)),
        (lambda: Image.new("F", SIZE, 0.5), (FLOAT_NOTE,)),
        (_rgb, ()),
    ],
)
def test_what_was_decided_is_said(make: Callable[[], Image.Image], notes: tuple[str, ...]) -> None:
    assert to_rgb(make(), "picture").notes == notes


@pytest.mark.parametrize("make", [_palette_with_transparency, lambda: _half_transparent("RGBA")])
def test_transparent_pixels_become_white(make: Callable[[], Image.Image]) -> None:
    assert to_rgb(make(), "picture").image.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str) -> None:
    image = _rgb()
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / f"turned.{suffix}", exif=exif)

    assert to_rgb(open_picture(tmp_path / f"turned.{suffix}"), "turned").image.size == SIZE[::-1]


def test_malformed_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    _rgb().save(buffer, "jpeg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12")
    (tmp_path / "odd.jpg").write_bytes(buffer.getvalue())

    assert to_rgb(open_picture(tmp_path / "odd.jpg"), "odd.jpg").image.size == SIZE


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_tiny_pictures_are_named(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=rf"speck\.png: {size[0]}x{size[1]} pixels"):
        to_rgb(Image.new("RGB", size), "speck.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "webp", "bmp"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        to_rgb(open_picture(path), path.name)


@pytest.mark.parametrize("content", [b"", b"just text", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "note.jpg").write_bytes(content)

    with pytest.raises(DataError, match=r"note\.jpg"):
        open_picture(tmp_path / "note.jpg")


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        open_picture(tmp_path / "gone.png")


@pytest.mark.parametrize("value", [float("nan"), -1.0, 4000.0])
def test_floating_point_pixels_out_of_range_are_named(value: float) -> None:
    with pytest.raises(DataError, match="depth"):
        to_rgb(Image.new("F", SIZE, value), "depth.tif")

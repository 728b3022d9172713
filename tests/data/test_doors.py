"""What a stranger's files may not do: run, hang, fill memory, or end in anything but a DataError with their name."""

import io
import lzma
import os
import socket
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from vitq.data import decode, draw_calibration, files, load_batches, open_images
from vitq.data.decode import load_picture, open_picture, to_rgb
from vitq.data.names import shown
from vitq.data.sources import ImageItem, ImageSource
from vitq.errors import DataError
from vitq.models import Preprocessing

MakePicture = Callable[[int], Image.Image]

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.fixture
def ghostscript(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of Ghostscript, which does not run."""
    calls: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **_: calls.append(arguments))
    return calls


def test_an_eps_in_a_jpg_is_not_opened(tmp_path: Path, ghostscript: list[Any]) -> None:
    (tmp_path / "photo.jpg").write_bytes(EPS)

    with pytest.raises(DataError, match=r"photo\.jpg: not an image of the formats JPEG, PNG"):
        open_picture(tmp_path / "photo.jpg")
    assert not ghostscript


def test_an_eps_that_was_opened_elsewhere_is_not_decoded(ghostscript: list[Any]) -> None:
    opened = Image.open(io.BytesIO(EPS))

    with pytest.raises(DataError, match="image 3: of format EPS, which is not decoded"):
        load_picture(opened, "image 3")
    assert not ghostscript


@pytest.mark.parametrize("kind", ["PCX", "SGI", "ICO", "IM", "MSP", "XBM", "PPM", "TGA", "JPEG", "GIF"])
def test_only_named_formats_are_opened(tmp_path: Path, kind: str) -> None:
    mode = "1" if kind in ("MSP", "XBM") else "L" if kind == "GIF" else "RGB"
    Image.new(mode, (16, 16)).save(tmp_path / "picture.png", kind)

    if kind in decode.FORMATS:
        assert open_picture(tmp_path / "picture.png").size == (16, 16)
    else:
        with pytest.raises(DataError, match=r"picture\.png: not an image"):
            open_picture(tmp_path / "picture.png")


@pytest.fixture(params=["fifo", "socket", "device", "folder", "link to a fifo"])
def irregular(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "odd.png"
    match request.param:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(path))
        case "device":
            path.symlink_to(os.devnull)
        case "folder":
            path.mkdir()
        case _:
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
    return path


def test_only_regular_files_are_opened(irregular: Path, preprocessing: Preprocessing) -> None:
    folder = irregular.parent
    (folder / "labels.csv").write_text("filename,label\nodd.png,1\n")

    with pytest.raises(DataError, match=r"odd\.png: not a regular file"):
        next(load_batches(open_images(folder), preprocessing))
    for suffix in (".npz", ".csv"):
        with pytest.raises(DataError, match="not a regular file"):
            files.open_regular(irregular, f"x{suffix}")


def test_a_labels_csv_or_npz_that_is_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    os.mkfifo(tmp_path / "images.npz")

    for source in (tmp_path, tmp_path / "images.npz"):
        with pytest.raises(DataError, match="not a regular file"):
            open_images(source)


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", 100)
    (tmp_path / "large.png").write_bytes(bytes(101))

    with pytest.raises(DataError, match=r"large\.png: larger than"):
        open_picture(tmp_path / "large.png")


def test_an_image_that_takes_too_long_is_skipped_and_named(
    monkeypatch: pytest.MonkeyPatch, preprocessing: Preprocessing, warned: Any, make_picture: MakePicture
) -> None:
    monkeypatch.setattr(decode, "SECONDS", 0.2)
    ended = threading.Event()

    def hang() -> Image.Image:
        ended.wait(60)
        return make_picture(9)

    items = [ImageItem("slow.png", hang), *(ImageItem(f"{n}", lambda n=n: make_picture(n)) for n in range(3))]
    try:
        x_NCHW = draw_calibration(ImageSource("test", tuple(items)), preprocessing, limit=4, warn=warned)
    finally:
        ended.set()

    assert len(x_NCHW) == 3
    assert "slow.png: not decoded within 0.2 s" in dict(warned)["unusable-images"]


def test_a_decoder_that_reads_on_after_the_limit_ends(
    monkeypatch: pytest.MonkeyPatch, make_picture: MakePicture
) -> None:
    buffer = io.BytesIO()
    make_picture(0).save(buffer, "PNG")
    monkeypatch.setattr(decode, "SECONDS", -1.0)

    with pytest.raises(DataError, match=r"a\.png: .*not decoded within"):
        decode.decode_picture(buffer.getvalue(), "a.png")


def test_decompression_bombs_are_named_also_where_pillows_limit_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (200, 100)).save(tmp_path / "bomb.png")
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == decode.PIXELS
    monkeypatch.setattr(decode, "PIXELS", 1000)

    for limit in (500, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"bomb\.png: .*too large to be a photograph"):
            open_picture(tmp_path / "bomb.png")


def test_a_picture_that_would_be_resized_to_gigabytes_is_named(tmp_path: Path) -> None:
    Image.new("L", (9, 1000)).save(tmp_path / "line.png")

    with pytest.raises(DataError, match=r"line\.png: 9x1000 pixels; one side is over 100 times the other"):
        open_picture(tmp_path / "line.png")


@pytest.mark.parametrize("suffix", ["avif", "webp", "jp2", "png", "jpg", "tif", "gif", "bmp", "tga", "ppm"])
def test_damaged_bytes_end_in_an_image_or_in_its_name(tmp_path: Path, suffix: str) -> None:
    draws = np.random.default_rng(0)
    path = tmp_path / f"damaged.{suffix}"
    Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for _ in range(25):
        content = bytearray(whole)
        for place in draws.integers(0, min(len(content), 400), 4):
            content[place] = draws.integers(0, 256)
        path.write_bytes(bytes(content[: int(draws.integers(1, len(content) + 1))]))
        try:
            assert to_rgb(open_picture(path), path.name).image.mode == "RGB"
        except DataError as error:
            assert path.name in str(error)


def test_closed_and_cut_pictures_in_memory_are_named(tmp_path: Path, preprocessing: Preprocessing) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])

    for picture in (closed, Image.open(tmp_path / "b.png")):
        with pytest.raises(DataError, match="image 0: broken, closed or cut short"):
            draw_calibration(open_images([picture]), preprocessing, limit=1)


@pytest.mark.parametrize("value", [65536, -1, 2**31 - 1])
def test_gray_beyond_sixteen_bits_is_refused_and_not_clipped(tmp_path: Path, value: int) -> None:
    Image.new("I", (16, 16), value).save(tmp_path / "depth.tif")

    with pytest.raises(DataError, match=r"depth\.tif: gray from .* outside 0\.\.65535"):
        to_rgb(open_picture(tmp_path / "depth.tif"), "depth.tif")


def _npz(path: Path, compression: int = zipfile.ZIP_STORED, content: bytes | None = None) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 9, 9), np.uint8))
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", buffer.getvalue() if content is None else content)
    return path


def _header(shape: str, data: bytes = b"") -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "make",
    [
        lambda path: np.save(path.open("wb"), np.zeros((2, 9, 9), np.uint8)),
        lambda path: _npz(path, zipfile.ZIP_LZMA),
        lambda path: _npz(path, zipfile.ZIP_BZIP2),
        lambda path: _npz(path, content=_header("(1000000, 1000000, 1000000)")),
        lambda path: _npz(path, content=_header("(-1, 9, 9)")),
        lambda path: _npz(path, content=_header("(2, 9, 9)", b"short")),
        lambda path: _npz(path, content=_header("(" * 3000)),
        lambda path: _npz(path, content=b"\x93NUMPY\x09\x00"),
        lambda path: _npz(path, content=b""),
        lambda path: np.savez(path, images=np.array([{}, b"x"], dtype=object)),
        lambda path: np.savez(path, images=np.array(["a", "b"])),
        lambda path: path.write_bytes(lzma.compress(b"images")),
        lambda path: path.write_bytes(_npz(path).read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_hostile_npz_files_are_named(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "images.npz")

    with pytest.raises(DataError, match=r"images\.npz"):
        open_images(tmp_path / "images.npz")


def test_an_npz_that_is_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitq.data.npz._memory", lambda: 100)

    with pytest.raises(DataError, match="more than this machine has"):
        open_images(_npz(tmp_path / "images.npz"))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a/" * 2500, "\udce9.png"])
def test_impossible_paths_are_named(tmp_path: Path, name: str, preprocessing: Preprocessing) -> None:
    for source in (name, tmp_path / name):
        with pytest.raises(DataError) as told:
            open_images(source)
        assert len(str(told.value)) < 400 and str(told.value).encode()
    with pytest.raises(DataError) as told:
        draw_calibration(open_images([name]), preprocessing, limit=1)
    assert len(str(told.value)) < 600 and str(told.value).encode()


def test_an_empty_path_is_not_the_folder_at_hand() -> None:
    with pytest.raises(DataError, match="path of the images is empty"):
        open_images("")


def test_names_that_are_not_utf_8_are_images_like_others(
    tmp_path: Path, make_picture: MakePicture, preprocessing: Preprocessing, warned: Any
) -> None:
    for number in range(3):
        make_picture(number).save(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9%d.png" % number), "PNG")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"broken")

    x_NCHW = draw_calibration(open_images(tmp_path), preprocessing, limit=4, views=2, warn=warned)

    assert len(x_NCHW) == 6
    assert "\\udcff.png: not an image" in warned[0][1] and warned[0][1].encode()


def test_shown_names_fit_on_a_line() -> None:
    assert shown("plain é.png") == "plain é.png"
    assert shown("a\n\x1b[31m\udce9") == "a\\n\\x1b[31m\\udce9"
    assert len(shown("x" * 5000)) == 201


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)

    with pytest.raises(DataError, match=r"the folder cannot be read \(Permission denied\)"):
        open_images(tmp_path)


def test_no_images_are_told_with_their_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no images found in '{tmp_path}'"):
        open_images(tmp_path)
    with pytest.raises(DataError, match="a generator gives its images only once"):
        open_images(iter([]))


def test_tensors_without_values_are_refused() -> None:
    sparse, meta = torch.zeros(2, 3, 8, 8).to_sparse(), torch.zeros(2, 3, 8, 8, device="meta")
    nested = torch.nested.nested_tensor([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)])
    for tensor in (sparse, meta, nested, torch.zeros(2, 3, 8, 8, dtype=torch.complex64)):
        for source in (tensor, [tensor], (tensor, torch.zeros(2)), [{"image": tensor}]):
            with pytest.raises(DataError, match="expected a picture"):
                open_images(source)
    with pytest.raises(DataError, match="class indices"):
        open_images((torch.zeros(2, 3, 8, 8), torch.zeros(2, device="meta")))

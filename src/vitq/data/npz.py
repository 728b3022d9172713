"""Array files: ``.npz`` with images and labels, checked before anything of their size is allocated."""

import math
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from vitq.data.files import open_regular, reason
from vitq.data.labels import class_indices
from vitq.data.names import shown
from vitq.data.sources import ImageItem, ImageSource
from vitq.errors import DataError

_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_npz(path: Path, labels: bool = True) -> ImageSource:
    """Read ``images`` (N, H, W, C) or (N, H, W), uint8, and optional ``labels`` (N,) unless they are not wanted; raise
    DataError for anything else.
    """
    where = f"'{shown(path)}'"
    with open_regular(path, where) as file:
        try:
            found = _arrays(file, ("images", "labels") if labels else ("images",))
        except DataError as error:
            raise DataError(f"{where} {error}") from error
        except Exception as error:  # on damaged bytes zipfile, zlib and NumPy raise whatever they stumbled over
            raise DataError(f"{where} is not a readable .npz without pickled objects: {reason(error)}") from error
    images = found["images"]
    gray, coloured = images.ndim == 3, images.ndim == 4 and images.shape[-1] in (1, 3, 4)
    if images.dtype != np.uint8 or not (gray or coloured):
        raise DataError(
            f"{where}: images are {images.dtype} {images.shape}; expected uint8 (N, H, W), or (N, H, W, C) "
            "with 1, 3 or 4 channels"
        )
    pictures_NHWC = images[..., 0] if images.shape[-1] == 1 and coloured else images
    checked = class_indices(found.get("labels"), len(images), where)
    items = (
        ImageItem(f"image {index}", partial(Image.fromarray, picture), label)
        for index, (picture, label) in enumerate(zip(pictures_NHWC, checked, strict=True))
    )
    return ImageSource("npz", tuple(items))


def _arrays(file: BinaryIO, wanted: tuple[str, ...]) -> dict[str, Any]:
    if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
        raise DataError("is one .npy array under another name; write it with numpy.savez(path, images=…)")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        present = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if "images" not in present:
            raise DataError(f"has no array 'images' but: {shown(', '.join(present))}")
        return {name: _array(archive, archive.getinfo(present[name])) for name in wanted if name in present}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read one array whose header, whose size in the archive and this machine's memory agree."""
    if info.compress_type not in _STORED or info.flag_bits & 1:
        raise DataError(f"holds '{shown(info.filename)}' encrypted, or compressed otherwise than NumPy does")
    with archive.open(info) as member:
        version = npy.read_magic(member)
        shape, _, dtype = _HEADERS[version](member) if version in _HEADERS else ((), False, np.dtype(object))
        content = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and member.tell() + content != info.file_size:
            raise DataError(f"says that '{shown(info.filename)}' has the shape {shown(shape)}, and holds another size")
        if content > _memory():
            raise DataError(f"holds {content / 2**30:.1f} GiB of '{shown(info.filename)}', more than this machine has")
    with archive.open(info) as member:
        return np.asarray(npy.read_array(member, allow_pickle=False))


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not told on this system
        return 2**63

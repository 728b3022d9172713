"""Draw calibration images with a seed, and refuse those that nothing can be learnt from."""

import hashlib
from collections.abc import Iterator
from itertools import chain

import torch
from PIL import Image
from torch import Tensor

from vitq.data.sources import ImageItem, ImageSource
from vitq.data.stream import Prepared, Warn, bad_values, check_shape, forward_notes, prepare, warn_by_default
from vitq.errors import CalibrationError, DataError
from vitq.models.preprocessing import Preprocessing


def draw_calibration(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    limit: int = 1000,
    views: int = 1,
    seed: int = 0,
    warn: Warn = warn_by_default,
) -> Tensor:
    """Draw ``limit`` images without their labels and without replacement: float32 (limit * views, C, H, W).

    Of the first half of the images come the evaluation views, then the augmented views; of the other half all views
    of an image together. So the first rows are of different images, and what is held out at the end is of images that
    no row before it shows, but for one image where it is no multiple of ``views``. An unusable image is replaced by
    the next one drawn. The same seed gives the same tensor whatever the number of threads. Raises DataError or
    CalibrationError when the images cannot be used. Source: vitq.
    """
    if limit < 1 or views < 1:
        raise DataError(f"calibration: {limit} images in {views} views; both must be at least 1")
    forward_notes(source, warn)
    if len(source) < limit:
        warn("few-images", f"{len(source)} calibration images, {limit} were asked for; all are used")
    wanted = min(limit, len(source))
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    evaluate = preprocessing.transform()

    def all_views(item: ImageItem, image: Image.Image) -> Tensor:
        augment = preprocessing.augmented(_generator(seed, item.name))
        return torch.stack([evaluate(image), *(augment(image) for _ in range(views - 1))])

    drawn = prepare((source.items[index] for index in order), all_views, wanted=wanted, warn=warn)
    x_NCHW = _gather(drawn, wanted, views, preprocessing, warn)
    check_images(x_NCHW, warn)
    return x_NCHW


def check_images(x_NCHW: Tensor, warn: Warn = warn_by_default) -> None:
    """Raise CalibrationError for no images, NaN, infinity or values above 1e9, or nothing but constant or equal images;
    warn of a few constant ones.
    """
    if len(x_NCHW) == 0:
        raise CalibrationError("no calibration images")
    wrong = {number: text for number, x_CHW in enumerate(x_NCHW) if (text := bad_values(x_CHW))}
    if wrong:
        number, text = next(iter(wrong.items()))
        raise CalibrationError(f"{len(wrong)} calibration images hold {text}, the first is number {number}")
    constant_N = (x_NCHW.amax((2, 3)) == x_NCHW.amin((2, 3))).all(1)
    constant = constant_N.nonzero().flatten().tolist()
    if len(constant) == len(x_NCHW):
        raise CalibrationError("every calibration image is one constant colour; nothing can be calibrated on them")
    if len(x_NCHW) > 1 and all(torch.equal(x_CHW, x_NCHW[0]) for x_CHW in x_NCHW[1:]):
        raise CalibrationError("all calibration images are equal; give different ones")
    if constant:
        warn(
            "constant-images",
            f"{len(constant)} calibration images are one constant colour, the first is number {constant[0]}",
        )


def _gather(drawn: Iterator[Prepared], wanted: int, views: int, preprocessing: Preprocessing, warn: Warn) -> Tensor:
    """Write images into one tensor (N * V, C, H, W) as they come, no second copy, in the order of ``_rows``."""
    first = next(drawn)
    if views > 1 and first.x.ndim == 3:
        warn("no-augmentation", "preprocessed tensors have no other views; each is used once")
    views = views if first.x.ndim == 4 else 1
    x_NCHW = torch.empty(views * wanted, *first.x.shape[-3:])
    filled: list[int] = []
    for number, one in enumerate(chain([first], drawn)):
        if one.x.ndim != first.x.ndim and views > 1:
            raise DataError(f"{one.item.shown}: pictures and preprocessed tensors cannot be mixed with several views")
        check_shape(one, first.x.shape[-3:], preprocessing)
        rows = _rows(number, wanted, views)
        x_NCHW[rows] = one.x
        filled.extend(rows)
    return x_NCHW if len(filled) == len(x_NCHW) else x_NCHW[sorted(filled)]


def _rows(number: int, images: int, views: int) -> list[int]:
    """Return where the views of an image lie: view by view in the first half of the images, then image by image."""
    half = images // 2
    if number < half:
        return list(range(number, half * views, half))
    return list(range(number * views, (number + 1) * views))


def _generator(seed: int, name: str) -> torch.Generator:
    """A generator for one image, the same whatever thread or turn it falls to."""
    digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "backslashreplace")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

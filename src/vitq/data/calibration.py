"""Draw calibration images with a seed, and walk through validation images in batches."""

import hashlib
from collections.abc import Iterator
from itertools import chain

import torch
from PIL import Image
from torch import Tensor

from vitq.data.sources import ImageItem, ImageSource
from vitq.data.stream import Prepared, Warn, prepare, warn_by_default
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

    The first ``limit`` rows are the evaluation views, then come the augmented views, ``limit`` rows each. An
    unusable image is replaced by the next one drawn. The same seed gives the same tensor whatever the number
    of threads. Raises DataError or CalibrationError when the images cannot be used. Source: vitq.
    """
    if limit < 1 or views < 1:
        raise DataError(f"calibration: {limit} images in {views} views; both must be at least 1")
    _forward_notes(source, warn)
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


def load_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    limit: int | None = None,
    *,
    batch_size: int = 32,
    num_classes: int | None = None,
    warn: Warn = warn_by_default,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Walk through ``limit`` evenly spaced images (all where None): x (B, C, H, W), and labels (B,) or None.

    Raises DataError at once for a label outside the model's classes, and on the way for unusable images
    above 5 %.
    """
    count = len(source) if limit is None else min(limit, len(source))
    if count < 1 or batch_size < 1:
        raise DataError(f"evaluation: {count} images in batches of {batch_size}; both must be at least 1")
    items = [source.items[index * len(source) // count] for index in range(count)]
    _forward_notes(source, warn)
    if num_classes is not None:
        _check_labels(source, items, num_classes, warn)
    return _batches(items, source.labelled, preprocessing, batch_size, warn)


def load_labelled(
    source: ImageSource,
    preprocessing: Preprocessing,
    limit: int | None = None,
    *,
    batch_size: int = 32,
    num_classes: int | None = None,
    warn: Warn = warn_by_default,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through labelled images as ``load_batches`` does; raise DataError where labels are missing."""
    if not source.labelled:
        raise DataError(f"the images ({source.layout}) have no labels; use class folders, a labels.csv, or pairs")
    batches = load_batches(source, preprocessing, limit, batch_size=batch_size, num_classes=num_classes, warn=warn)
    return ((x_BCHW, labels_B) for x_BCHW, labels_B in batches if labels_B is not None)


def check_images(x_NCHW: Tensor, warn: Warn = warn_by_default) -> None:
    """Raise CalibrationError for no images, NaN or infinity, or nothing but constant or equal images; warn
    of a few constant ones.
    """
    if len(x_NCHW) == 0:
        raise CalibrationError("no calibration images")
    finite_N = torch.stack([torch.isfinite(x_CHW).all() for x_CHW in x_NCHW])
    if not bool(finite_N.all()):
        bad = (~finite_N).nonzero().flatten().tolist()
        raise CalibrationError(f"{len(bad)} calibration images hold NaN or infinity, the first is number {bad[0]}")
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


def _batches(
    items: list[ImageItem], labelled: bool, preprocessing: Preprocessing, batch_size: int, warn: Warn
) -> Iterator[tuple[Tensor, Tensor | None]]:
    evaluate = preprocessing.transform()
    batch: list[Prepared] = []

    for prepared in prepare(items, lambda _, image: evaluate(image), wanted=len(items), warn=warn):
        batch.append(prepared)
        _check_shape(prepared, batch[0].x.shape, preprocessing)
        if len(batch) == batch_size:
            yield _collate(batch, labelled)
            batch = []
    if batch:
        yield _collate(batch, labelled)


def _collate(batch: list[Prepared], labelled: bool) -> tuple[Tensor, Tensor | None]:
    x_BCHW = torch.stack([prepared.x for prepared in batch])
    return x_BCHW, torch.tensor([prepared.item.label for prepared in batch]) if labelled else None


def _check_labels(source: ImageSource, items: list[ImageItem], num_classes: int, warn: Warn) -> None:
    for item in items:
        if item.label is not None and item.label >= num_classes:
            raise DataError(f"{item.name}: label {item.label}, but the model has only {num_classes} classes, from 0")
    if source.class_names is not None and len(source.class_names) < num_classes:
        text = f"{len(source.class_names)} class folders for a model of {num_classes} classes"
        warn(
            "few-classes",
            f"{text}; the folders, sorted by name, are taken as classes 0 to {len(source.class_names) - 1}",
        )


def _gather(drawn: Iterator[Prepared], wanted: int, views: int, preprocessing: Preprocessing, warn: Warn) -> Tensor:
    """Write images into one tensor (N * V, C, H, W) as they come, first views first: no second copy."""
    first = next(drawn)
    if views > 1 and first.x.ndim == 3:
        warn("no-augmentation", "preprocessed tensors have no other views; each is used once")
    views = views if first.x.ndim == 4 else 1
    x_VNCHW = torch.empty(views, wanted, *first.x.shape[-3:])
    count = 0
    for one in chain([first], drawn):
        if one.x.ndim != first.x.ndim and views > 1:
            raise DataError(f"{one.item.name}: pictures and preprocessed tensors cannot be mixed with several views")
        _check_shape(one, first.x.shape[-3:], preprocessing)
        x_VNCHW[:, count] = one.x
        count += 1
    return x_VNCHW[:, :count].flatten(0, 1)


def _check_shape(one: Prepared, others: torch.Size, preprocessing: Preprocessing) -> None:
    """Raise DataError naming an image that does not fit the model, or the others where that is unknown."""
    expected = others if preprocessing.assumed else torch.Size(preprocessing.input_size)
    if one.x.shape[-3:] != expected:
        shape, fitting = ("x".join(map(str, sizes)) for sizes in (one.x.shape[-3:], expected))
        raise DataError(f"{one.item.name}: a tensor of {shape}, expected {fitting}; give preprocessing= to change it")


def _forward_notes(source: ImageSource, warn: Warn) -> None:
    for name, message in source.notes:
        warn(name, message)


def _generator(seed: int, name: str) -> torch.Generator:
    """A generator for one image, the same whatever thread or turn it falls to."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

"""Walk through validation images in batches, with their labels where there are any."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vitq.data.sources import ImageItem, ImageSource
from vitq.data.stream import Prepared, Warn, check_shape, check_values, forward_notes, prepare, warn_by_default
from vitq.errors import DataError
from vitq.models.preprocessing import Preprocessing


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

    Raises DataError at once for a label outside the model's classes, and on the way for unusable images above 5 % and
    for an image that holds NaN, infinity or values above 1e9. A model of one output takes the labels 0 and 1;
    ``num_classes`` 0, timm's word for no head, is unknown too.
    """
    count = len(source) if limit is None else min(limit, len(source))
    if count < 1 or batch_size < 1:
        raise DataError(f"evaluation: {count} images in batches of {batch_size}; both must be at least 1")
    items = [source.items[index * len(source) // count] for index in range(count)]
    forward_notes(source, warn)
    if num_classes:
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
    require_labels(source)
    batches = load_batches(source, preprocessing, limit, batch_size=batch_size, num_classes=num_classes, warn=warn)
    return ((x_BCHW, labels_B) for x_BCHW, labels_B in batches if labels_B is not None)


def require_labels(source: ImageSource) -> None:
    """Raise DataError where an image has no label."""
    missing = sum(item.label is None for item in source.items)
    if missing:
        some = "the images" if missing == len(source) else f"{missing} of {len(source)} images"
        raise DataError(f"{some} ({source.layout}) have no labels; use class folders, a labels.csv, or pairs")


def _batches(
    items: list[ImageItem], labelled: bool, preprocessing: Preprocessing, batch_size: int, warn: Warn
) -> Iterator[tuple[Tensor, Tensor | None]]:
    evaluate = preprocessing.transform()
    batch: list[Prepared] = []

    for prepared in prepare(items, lambda _, image: evaluate(image), wanted=len(items), warn=warn):
        batch.append(prepared)
        check_shape(prepared, batch[0].x.shape, preprocessing)
        check_values(prepared)
        if len(batch) == batch_size:
            yield _collate(batch, labelled)
            batch = []
    if batch:
        yield _collate(batch, labelled)


def _collate(batch: list[Prepared], labelled: bool) -> tuple[Tensor, Tensor | None]:
    x_BCHW = torch.stack([prepared.x for prepared in batch])
    return x_BCHW, torch.tensor([prepared.item.label for prepared in batch]) if labelled else None


def _check_labels(source: ImageSource, items: list[ImageItem], num_classes: int, warn: Warn) -> None:
    limit = max(num_classes, 2)  # one output knows two classes, by its sign
    for item in items:
        if item.label is not None and item.label >= limit:
            raise DataError(f"{item.shown}: label {item.label}, but the model has only {limit} classes, from 0")
    if source.class_names is not None and len(source.class_names) < limit:
        text = f"{len(source.class_names)} class folders for a model of {num_classes} classes"
        warn(
            "few-classes",
            f"{text}; the folders, sorted by name, are taken as classes 0 to {len(source.class_names) - 1}",
        )

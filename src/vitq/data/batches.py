"""Walk through validation images in batches, with their labels where there are any."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from vitq.data.geometry import pixel_grid
from vitq.data.items import ImageItem, ImageSource, Pixels
from vitq.data.processes import decoders
from vitq.data.stream import (
    Prepared,
    Warn,
    bad_values,
    check_shape,
    check_values,
    forward_notes,
    prepare,
    warn_by_default,
)
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
    workers: int | None = 0,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Walk through ``limit`` evenly spaced images (all where None): x (B, C, H, W), and labels or None.

    Labels are classes (B,), boxes (B, M, 7) or maps (B, 1, H, W), as ``vitq.data.targets`` says.

    Raises DataError at once for a label outside the model's classes, and on the way for unusable images above 5 % and
    for an image that holds NaN, infinity or values above 1e9. A model of one output takes the labels 0 and 1;
    ``num_classes`` 0, timm's word for no head, is unknown too. ``workers`` processes decode, threads of this one where
    it is 0; None leaves it to ``decoders``.
    """
    count = len(source) if limit is None else min(limit, len(source))
    if count < 1 or batch_size < 1:
        raise DataError(f"evaluation: {count} images in batches of {batch_size}; both must be at least 1")
    items = [source.items[index * len(source) // count] for index in range(count)]
    forward_notes(source, warn)
    if num_classes:
        _check_labels(source, items, num_classes, warn)
    return _batches(items, source.labelled, preprocessing, batch_size, warn, decoders(items, workers))


def load_labelled(
    source: ImageSource,
    preprocessing: Preprocessing,
    limit: int | None = None,
    *,
    batch_size: int = 32,
    num_classes: int | None = None,
    warn: Warn = warn_by_default,
    workers: int | None = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through labelled images as ``load_batches`` does; raise DataError where labels are missing."""
    require_labels(source)
    batches = load_batches(
        source, preprocessing, limit, batch_size=batch_size, num_classes=num_classes, warn=warn, workers=workers
    )
    return ((x_BCHW, labels_B) for x_BCHW, labels_B in batches if labels_B is not None)


def require_labels(source: ImageSource) -> None:
    """Raise DataError where an image has no label."""
    if missing := source.unlabelled:
        some = "the images" if missing == len(source) else f"{missing} of {len(source)} images"
        raise DataError(
            f"{some} ({source.layout}) have no labels; use class folders, a labels.csv, images beside "
            "masks, a COCO json, or pairs"
        )


def _batches(
    items: list[ImageItem], labelled: bool, preprocessing: Preprocessing, batch_size: int, warn: Warn, workers: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    place = preprocessing.transform(normalised=False)
    batch: list[Prepared] = []

    def label(item: ImageItem, pixels: Pixels) -> Tensor | None:
        if item.target is None:
            return None if item.label is None else torch.tensor(item.label)
        if isinstance(pixels, Tensor):
            return item.target.tensor(None, (pixels.shape[-2], pixels.shape[-1]))
        height, width = preprocessing.input_size[1:]
        return item.target.tensor(pixel_grid(preprocessing, *pixels.size), (height, width))

    own = label if labelled else lambda *_: None
    walk = prepare(items, lambda _, image: place(image), wanted=len(items), warn=warn, label=own, workers=workers)
    for prepared in walk:
        batch.append(prepared)
        check_shape(prepared, batch[0].x.shape, preprocessing)
        if len(batch) == batch_size:
            yield _collate(batch, preprocessing)
            batch = []
    if batch:
        yield _collate(batch, preprocessing)


def _collate(batch: list[Prepared], preprocessing: Preprocessing) -> tuple[Tensor, Tensor | None]:
    """Stack a batch, whose pictures are bytes until here; what is no picture is preprocessed already."""
    if all(prepared.x.dtype == torch.uint8 for prepared in batch):
        x_BCHW = preprocessing.normalise(torch.stack([prepared.x for prepared in batch]))
    else:
        parts = (p.x if p.x.dtype != torch.uint8 else preprocessing.normalise(p.x) for p in batch)
        x_BCHW = torch.stack(list(parts))
    if bad_values(x_BCHW):
        for prepared, x_CHW in zip(batch, x_BCHW, strict=True):
            check_values(replace(prepared, x=x_CHW))
    labels = [prepared.label for prepared in batch if prepared.label is not None]
    for prepared, label in zip(batch, labels, strict=False):
        if (label.dtype, label.shape) != (labels[0].dtype, labels[0].shape):
            kinds = " and ".join(f"{one.dtype} {tuple(one.shape)}" for one in (labels[0], label))
            raise DataError(f"{prepared.item.shown}: maps are of several kinds, {kinds}; save them all in one way")
    return x_BCHW, torch.stack(labels) if labels else None


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

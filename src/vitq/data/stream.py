"""Decode and preprocess many images at once, in order, naming what is broken."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from vitq.data.decode import to_rgb
from vitq.data.sources import ImageItem, ImageSource
from vitq.errors import DataError
from vitq.models.preprocessing import Preprocessing

Warn = Callable[[str, str], None]
"""Takes a warning's name and its message; ``Events.warn`` is one."""

In = TypeVar("In")
Out = TypeVar("Out")

BROKEN_SHARE = 0.05
WORKERS = min(8, os.cpu_count() or 1)
_SHOWN = 5


def warn_by_default(name: str, message: str) -> None:
    """Hand a named warning to Python's own ``warnings``."""
    warnings.warn(f"{name}: {message}", stacklevel=3)


@dataclass(frozen=True)
class Prepared:
    """An image ready for the model: its item, the tensor, and what had to be decided when decoding it."""

    item: ImageItem
    x: Tensor
    notes: tuple[str, ...]


def prepare(
    items: Iterable[ImageItem],
    transform: Callable[[ImageItem, Image.Image], Tensor],
    *,
    wanted: int,
    warn: Warn,
) -> Iterator[Prepared]:
    """Yield the first ``wanted`` usable images of ``items`` in order; ``transform`` runs in a few threads.

    Tensors pass as they are. Unusable images are skipped and named in one warning at the end; raises
    DataError when they are more than 5 % of ``wanted`` (one is always let pass), or when nothing is usable.
    """
    broken: list[str] = []
    noted: dict[str, list[str]] = {}
    done = 0
    for outcome in _in_order(items, lambda item: _read(item, transform)):
        if isinstance(outcome, DataError):
            broken.append(str(outcome))
            if len(broken) > max(1.0, BROKEN_SHARE * wanted):
                raise DataError(f"too many unusable images ({len(broken)} of {done + len(broken)}): {_listed(broken)}")
            continue
        for note in outcome.notes:
            noted.setdefault(note, []).append(outcome.item.name)
        done += 1
        yield outcome
        if done == wanted:
            break
    if done == 0:
        raise DataError(f"no usable image: {_listed(broken) or 'the source is empty'}")
    if broken:
        warn("unusable-images", f"{len(broken)} skipped: {_listed(broken)}")
    for note, names in noted.items():
        warn("converted-images", f"{note}: {len(names)} images ({_listed(names)})")


def check_shape(one: Prepared, others: torch.Size, preprocessing: Preprocessing) -> None:
    """Raise DataError naming an image that does not fit the model, or the others where that is unknown."""
    expected = others if preprocessing.assumed else torch.Size(preprocessing.input_size)
    if one.x.shape[-3:] != expected:
        shape, fitting = ("x".join(map(str, sizes)) for sizes in (one.x.shape[-3:], expected))
        raise DataError(f"{one.item.name}: a tensor of {shape}, expected {fitting}; give preprocessing= to change it")


def forward_notes(source: ImageSource, warn: Warn) -> None:
    """Warn of what was noticed when the source was opened."""
    for name, message in source.notes:
        warn(name, message)


def _read(item: ImageItem, transform: Callable[[ImageItem, Image.Image], Tensor]) -> Prepared | DataError:
    try:
        pixels = item.read()
        if isinstance(pixels, Tensor):
            return Prepared(item, pixels, ())
        decoded = to_rgb(pixels, item.name)
        return Prepared(item, transform(item, decoded.image), decoded.notes)
    except DataError as error:
        return error


def _in_order(items: Iterable[In], function: Callable[[In], Out]) -> Iterator[Out]:
    """Map in threads with a bounded number of results in flight, so that memory stays small."""
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more

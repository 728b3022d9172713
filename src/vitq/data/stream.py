"""Decode and preprocess many images at once, in order, naming what is broken."""

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain

import torch
from PIL import Image
from torch import Tensor

from vitq.data import decode
from vitq.data.items import ImageItem, ImageSource, Pixels
from vitq.data.processes import Outcome, read_in_processes
from vitq.errors import DataError
from vitq.models.preprocessing import Preprocessing

Warn = Callable[[str, str], None]
"""Takes a warning's name and its message; ``Events.warn`` is one."""

LARGEST_VALUE = 1e9
"""Larger values of a preprocessed image are damage; their fourth powers leave float32."""
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
    label: Tensor | None = None


def prepare(
    items: Iterable[ImageItem],
    transform: Callable[[ImageItem, Image.Image], Tensor],
    *,
    wanted: int,
    warn: Warn,
    label: Callable[[ImageItem, Pixels], Tensor | None] = lambda *_: None,
    workers: int = 0,
) -> Iterator[Prepared]:
    """Yield the first ``wanted`` usable images of ``items`` in order; ``transform`` and ``label`` run in a few threads,
    or in so many ``workers``, processes, where ``decoders`` allows them.

    Tensors pass as they are. Unusable images are skipped and named in one warning at the end; raises
    DataError when they are more than 5 % of ``wanted`` (one is always let pass), or when nothing is usable. One that
    takes longer than ``decode.SECONDS`` is unusable too; its thread is left to end by itself.
    """
    broken: list[str] = []
    noted: dict[str, list[str]] = {}
    done = 0
    walk = _in_processes(list(items), transform, label, workers) if workers else _in_order(items, transform, label)
    for outcome in walk:
        if isinstance(outcome, DataError):
            broken.append(str(outcome))
            if len(broken) > max(1.0, BROKEN_SHARE * wanted):
                raise DataError(f"too many unusable images ({len(broken)} of {done + len(broken)}): {_listed(broken)}")
            continue
        for note in outcome.notes:
            noted.setdefault(note, []).append(outcome.item.shown)
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
        raise DataError(f"{one.item.shown}: a tensor of {shape}, expected {fitting}; give preprocessing= to change it")


def forward_notes(source: ImageSource, warn: Warn) -> None:
    """Warn of what was noticed when the source was opened."""
    for name, message in source.notes:
        warn(name, message)


def bad_values(x: Tensor) -> str | None:
    """Return what is wrong with the values of preprocessed images: NaN, infinity or far too large; None if nothing."""
    low, high = (float(end) for end in x.aminmax()) if x.numel() else (0.0, 0.0)  # NaN is both
    largest = max(-low, high)
    if not math.isfinite(largest):
        return "NaN or infinity"
    return None if largest <= LARGEST_VALUE else f"values up to {largest:.3g}, which no preprocessing gives"


def check_values(one: Prepared) -> None:
    """Raise DataError naming an image whose values are NaN, infinite or far too large."""
    if wrong := bad_values(one.x):
        raise DataError(f"{one.item.shown} holds {wrong}")


def _fetched(item: ImageItem) -> ImageItem:
    if item.fetch is None:
        return item
    try:
        return item.fetch()
    except DataError as error:
        return replace(item, read=_raising(error), fetch=None)


def _raising(error: DataError) -> Callable[[], Tensor]:
    def read() -> Tensor:
        raise error

    return read


def _read(
    item: ImageItem,
    transform: Callable[[ImageItem, Image.Image], Tensor],
    label: Callable[[ImageItem, Pixels], Tensor | None],
) -> Prepared | DataError:
    try:
        pixels = item.read()
        if isinstance(pixels, Tensor):
            return Prepared(item, pixels, (), label(item, pixels))
        decoded = decode.to_rgb(pixels, item.shown)
        return Prepared(item, transform(item, decoded.image), decoded.notes, label(item, decoded.image))
    except DataError as error:
        return error


def _in_processes(
    items: list[ImageItem],
    transform: Callable[[ImageItem, Image.Image], Tensor],
    label: Callable[[ImageItem, Pixels], Tensor | None],
    workers: int,
) -> Iterator[Prepared | DataError]:
    def read(item: ImageItem) -> Outcome:
        found = _read(item, transform, label)
        return str(found) if isinstance(found, DataError) else (found.x, found.notes, found.label)

    for item, outcome in read_in_processes(items, read, workers):
        yield DataError(outcome) if isinstance(outcome, str) else Prepared(item, *outcome)


def _in_order(
    items: Iterable[ImageItem],
    transform: Callable[[ImageItem, Image.Image], Tensor],
    label: Callable[[ImageItem, Pixels], Tensor | None],
) -> Iterator[Prepared | DataError]:
    """Read in threads with a bounded number of results in flight, so that memory stays small."""
    waiting: deque[tuple[ImageItem, Future[Prepared | DataError]]] = deque()
    pool, late = ThreadPoolExecutor(WORKERS), False
    try:
        for item in chain(map(_fetched, items), [None] * 4 * WORKERS):  # None: nothing more to read
            if item is not None:
                waiting.append((item, pool.submit(_read, item, transform, label)))
            if waiting and (item is None or len(waiting) > 4 * WORKERS):
                first, future = waiting.popleft()  # all before it are done, so it is being read by now
                outcome = _within(first, future)
                late |= not future.done()
                yield outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        running = [future for _, future in waiting if not future.cancelled()]
        wait(running, timeout=0 if late else decode.SECONDS)  # threads end before the caller goes on, if they end


def _within(item: ImageItem, future: Future[Prepared | DataError]) -> Prepared | DataError:
    done, _ = wait([future], timeout=decode.SECONDS)
    return future.result() if done else DataError(f"{item.shown}: not decoded within {decode.SECONDS:g} s")


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more

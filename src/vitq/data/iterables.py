"""Lists, data sets, loaders and generators: which of their entries are read, and when."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from vitq.data.entries import rows_of
from vitq.data.files import reason
from vitq.data.memory import items_of
from vitq.data.names import shown
from vitq.data.sources import ImageItem, ImageSource
from vitq.errors import DataError

RESERVE = 0.05
"""Share of images that is read beyond those wanted, to replace unusable ones."""


def open_iterable(source: Any, labels: bool, limit: int | None) -> ImageSource:
    """Take whatever gives images one by one or in batches.

    Lists and tuples are taken whole. Without ``labels`` (calibration) a data set with ``__getitem__`` and ``__len__``
    is read when its images are drawn, also that of a plain DataLoader; anything else is read from its start until there
    are ``limit`` images and 5 % in reserve. With labels everything is read once and kept. Raises DataError for what
    is no image, naming its number, and for what fails when it is read.
    """
    if isinstance(source, list | tuple):
        return ImageSource("list", tuple(_items(source, labels)))
    rows = None if labels else random_access(source)
    if rows is not None and (opened := _open_rows(rows)) is not None:
        return opened
    entries = source if isinstance(source, Iterable) else _all_rows(source)
    wanted = None if labels or limit is None else limit + max(1, int(RESERVE * limit))
    return ImageSource("iterable", tuple(islice(_items(entries, labels), wanted)))


def is_map_style(source: Any) -> bool:
    """Whether ``source`` gives row i of n by ``__getitem__`` and ``__len__``."""
    own = type(source)
    rows = hasattr(own, "__getitem__") and hasattr(own, "__len__")
    return rows and not isinstance(source, str | bytes | Mapping | IterableDataset)


def random_access(source: Any) -> Any | None:
    """Return the data set whose rows may be read in any order, or None.

    A DataLoader is its data set where it does no more than to walk through all of it and to stack.
    """
    if isinstance(source, DataLoader):
        plain = source.collate_fn is default_collate and type(source.sampler) in (SequentialSampler, RandomSampler)
        own = source.dataset
        return own if plain and is_map_style(own) else None
    return source if is_map_style(source) else None


def _open_rows(rows: Any) -> ImageSource | None:
    """Items that read their row when it is their turn; None where a row holds other than one image."""
    count = _told(lambda: len(rows), "the data set")
    if count == 0:
        return ImageSource("data set", ())
    first = list(_items([_told(partial(rows.__getitem__, 0), "image 0")], labels=False))
    if len(first) != 1:
        return None

    def fetch(index: int) -> ImageItem:
        row = _told(partial(rows.__getitem__, index), f"image {index}")
        items = list(_items([row], labels=False, first=index))
        if len(items) != 1:
            raise DataError(f"image {index}: its row holds {len(items)} images, row 0 holds one")
        return items[0]

    def unread() -> Any:
        raise AssertionError("a row is fetched before it is read")

    shape = first[0].shape
    items = (ImageItem(f"image {i}", unread, shape=shape, fetch=partial(fetch, i)) for i in range(count))
    return ImageSource("data set", tuple(items))


def _all_rows(rows: Any) -> Iterator[Any]:
    for index in range(len(rows)):
        yield rows[index]


def _items(entries: Iterable[Any], labels: bool, first: int = 0) -> Iterator[ImageItem]:
    count = first
    for entry in _watched(entries):
        try:
            rows = list(rows_of(entry, labels))
        except DataError as error:
            raise DataError(f"image {count}: {error}") from error
        for pixels, label in rows:
            for item in items_of(pixels, label, count):
                count += 1
                yield item


def _watched(entries: Iterable[Any]) -> Iterator[Any]:
    """Walk through another's entries; what goes wrong in it is a DataError with its number."""
    walk = _told(lambda: iter(entries), "the images")
    number = 0
    while True:
        try:
            entry = next(walk)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"entry {number} of the images cannot be read: {_said(error)}") from error
        yield entry
        number += 1


def _told(read: Callable[[], Any], name: str) -> Any:
    try:
        return read()
    except Exception as error:  # another's code
        raise DataError(f"{name} cannot be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{shown(type(error).__name__)}: {reason(error)}"

"""Decode in worker processes: where threads wait for each other's Python, processes do not."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, _utils, default_collate

from vitq.data import decode
from vitq.data.items import ImageItem
from vitq.errors import DataError

CHUNK = 16
"""Images that a process decodes at a time: one piece of shared memory each."""
MANY = 2000
"""Images from which on processes repay their start."""
MOST = 16

Outcome = tuple[Tensor, tuple[str, ...], Tensor | None] | str
"""A tensor, what had to be decided, and its label; or what is wrong with the image."""


def decoders(items: Sequence[ImageItem], wanted: int | None) -> int:
    """Return how many processes decode ``items``, 0 for threads of this one; ``wanted`` None leaves it open.

    Only what reads files can be read elsewhere, and only where a process can be forked: others would run the caller's
    script again. Nobody who leaves it open gets a fork of a process that has loaded OpenVINO, which has crashed.
    """
    able = sys.platform.startswith("linux") and "fork" in multiprocessing.get_all_start_methods()
    if not able or not all(item.decodes for item in items):
        return 0
    if wanted is not None:
        return wanted
    return 0 if len(items) < MANY or "openvino" in sys.modules else min(MOST, len(os.sched_getaffinity(0)))


@dataclass
class Chunks(Dataset[list[Any]]):
    """Items, ``CHUNK`` at a time, read by ``read``."""

    items: Sequence[ImageItem]
    read: Callable[[ImageItem], Outcome]

    def __len__(self) -> int:
        return -(-len(self.items) // CHUNK)

    def __getitem__(self, place: int) -> list[Any]:
        """Return the images of a chunk; those of one shape share one tensor, whose rows they are."""
        found = [self.read(item) for item in self.items[place * CHUNK : (place + 1) * CHUNK]]
        tensors = [outcome[0] for outcome in found if not isinstance(outcome, str)]
        if len({x.shape for x in tensors}) != 1:
            return [None, found]
        others = [outcome if isinstance(outcome, str) else outcome[1:] for outcome in found]
        return [default_collate(tensors), others]  # one copy, straight into shared memory


def read_in_processes(
    items: Sequence[ImageItem], read: Callable[[ImageItem], Outcome], workers: int
) -> Iterator[tuple[ImageItem, Outcome]]:
    """Yield items in order with what ``workers`` processes read of them, a few chunks ahead of the caller.

    Raises DataError where a process dies or hangs.
    """
    loader = DataLoader(
        Chunks(items, read),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork",
        timeout=CHUNK * decode.SECONDS,
        prefetch_factor=2,
    )
    with _children_unwatched_behind():
        yield from _in_order(loader, iter(items))


@contextmanager
def _children_unwatched_behind() -> Iterator[None]:
    """Take the loader's handler of ended children off again, which is there for good otherwise.

    It runs at the end of every other child too, and with OpenVINO in the process that ends in a segmentation fault.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGCHLD, before)
            _utils.signal_handling._SIGCHLD_handler_set = False  # the next loader sets its own


def _in_order(loader: DataLoader[list[Any]], left: Iterator[ImageItem]) -> Iterator[tuple[ImageItem, Outcome]]:
    walk = iter(loader)
    for _ in range(len(loader)):
        try:
            stacked, found = next(walk)
        except RuntimeError as error:
            raise DataError(
                f"a process that decodes images has died or hangs ({str(error).splitlines()[0][:200]}); "
                "decode in this one: workers 0"
            ) from error
        rows = iter(() if stacked is None else stacked.unbind(0))
        for outcome in found:
            item = next(left)
            if isinstance(outcome, str):
                yield item, outcome
            elif stacked is None:
                yield item, tuple(outcome)
            else:
                notes, label = outcome
                yield item, (next(rows), tuple(notes), label)

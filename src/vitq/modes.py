"""Torch's modes: vitq's verbs run in those that they need, and leave the caller's as they were.

Some modes belong to the process, and torch.export and torch.compile keep state of their own there: of two verbs in two
threads, the second waits for the first.
"""

import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")

LOCK = threading.RLock()
"""Held by the verb that runs; a verb may call another."""

AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def in_own_modes(verb: Callable[P, R]) -> Callable[P, R]:
    """Wrap a verb so that it runs in ``own_modes``."""

    @functools.wraps(verb)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with own_modes():
            return verb(*args, **kwargs)

    return wrapper


@contextmanager
def own_modes() -> Iterator[None]:
    """Run the block in torch's default modes, one thread at a time, and restore the caller's, also after an error.

    Gradients are on, inference mode and autocast off; default dtype float32 and default device the CPU; float32
    products are exact; algorithms those that torch prefers. The global random state (torch, NumPy, Python) and the
    number of threads are put back.
    """
    with LOCK, ExitStack() as stack:
        stack.enter_context(forward_modes())
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for read, write, wanted in _process_modes():
            before = read()
            stack.callback(_restore, read, write, before)
            if before != wanted:
                write(wanted)
        stack.callback(_set_threads, torch.get_num_threads())
        stack.enter_context(_same_random_state())
        yield


@contextmanager
def forward_modes() -> Iterator[None]:
    """Run the block without gradients, inference mode and autocast: modes of a thread, so that no other waits."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


Mode = tuple[Callable[[], Any], Callable[[Any], object], Any]
"""How a mode of the process is read and written, and what vitq needs."""


def _process_modes() -> list[Mode]:
    return [
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
        *_precisions(),
    ]


def _precisions() -> list[Mode]:
    """Return the modes of float32 products: torch has two interfaces to them, and refuses the one not in use."""
    try:
        torch.get_float32_matmul_precision()
    except RuntimeError:
        backends: Any = torch.backends
        owners = (backends, backends.mkldnn.matmul, backends.cuda.matmul)
        return [
            (
                functools.partial(getattr, owner, "fp32_precision"),
                functools.partial(setattr, owner, "fp32_precision"),
                "ieee",
            )
            for owner in owners
        ]
    return [(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")]


def _restore(read: Callable[[], Any], write: Callable[[Any], object], before: Any) -> None:
    """Write ``before`` where a verb, or the model that it ran, has left another value."""
    if read() != before:
        write(before)


def _set_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Put the global generators back; one of a GPU that was not in use follows the CPU's seed, as torch has it."""
    used = torch.cuda.is_initialized()
    python, array, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if used else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(cpu)
        if used:
            torch.cuda.set_rng_state_all(gpus)
        else:
            torch.cuda.manual_seed_all(torch.initial_seed())

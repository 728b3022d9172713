"""Run small pure functions through torch.compile, and in eager mode where no compiler works.

Off unless ``use_compiled_kernels`` is entered. A function is compiled once per key, for all shapes.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch

EXACT_DIVISION = (
    "eager_numerics.division_rounding",
    "emulate_divison_rounding",
)  # Triton's x / s is inexact by default


WORTH_COMPILING = 50_000_000
"""Pixels seen, 1,000 images of 224 x 224, from which compiling pays."""


def worth_compiling(images: int, shape: Sequence[int]) -> bool:
    """Tell whether running so many images of ``shape`` (…, H, W) repays the half minute that compiling takes."""
    return images * shape[-1] * shape[-2] >= WORTH_COMPILING


@dataclass
class _State:
    enabled: bool = False
    failure: str | None = None
    functions: dict[tuple[Any, ...], Callable[..., Any]] = field(default_factory=dict)


_STATE = _State()


@contextmanager
def use_compiled_kernels(enabled: bool = True) -> Iterator[None]:
    """Compile the training-time kernels (C++ on a CPU, Triton on a GPU) in this block; default is eager."""
    previous = _STATE.enabled
    _STATE.enabled = enabled
    try:
        yield
    finally:
        _STATE.enabled = previous


def compiling() -> bool:
    """Return whether kernels should be compiled here and now: asked for, and no compiler has failed."""
    return _STATE.enabled and _STATE.failure is None


def compile_failure() -> str | None:
    """Return why kernels fell back to eager mode, None if they did not."""
    return _STATE.failure


def call_compiled(key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` compiled under ``key``; if that fails, warn once and stay eager from then on."""
    try:
        if key not in _STATE.functions:
            _STATE.functions[key] = _compile(function, "_".join(map(str, key)))
        return _STATE.functions[key](*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        result = function(*arguments)  # a mistake in the arguments raises here again, as itself
        _STATE.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"kernels run in eager mode, slower but equal: compiling failed ({_STATE.failure})", stacklevel=2)
        return result


def _compile(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Compile a copy: recompilation is limited per code object, and each key deserves its own limit."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)
    known = torch._inductor.list_options()
    options: dict[str, str | int | bool | Callable[..., Any]] = {o: True for o in EXACT_DIVISION if o in known}
    compiled: Callable[..., Any] = torch.compile(copy, dynamic=True, options=options)
    return compiled

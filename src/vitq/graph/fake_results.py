"""What operations give on fake values, computed once for equal arguments: blocks repeat, and so do loaded models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from threading import Lock
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

MOST_KNOWN = 1 << 12
"""Results that are kept, of 2 kB each; a DeiT-Tiny has a hundred different ones."""


@dataclass(frozen=True)
class _Call:
    """An operation with its arguments, equal to another where all that a fake result depends on is."""

    key: Any
    target: Any = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    kwargs: Mapping[str, Any] = field(compare=False)


def fake_like(tensor: torch.Tensor) -> Any:
    """Return a fake tensor of the layout of ``tensor``."""
    layout = {"dtype": tensor.dtype, "device": tensor.device}
    return result_of(torch.empty_strided, (tensor.shape, tensor.stride()), layout)


def fake_empty(shape: Sequence[int], dtype: torch.dtype) -> Any:
    """Return a fake tensor of ``shape``."""
    return result_of(torch.empty, (tuple(shape),), {"dtype": dtype})


def result_of(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what operation ``target`` gives on fake tensors and numbers, of sizes without symbols; not to be changed.

    Raises what ``target`` raises.
    """
    return _known(_Call((target, _key(args), _key(tuple(kwargs.items()))), target, args, kwargs))


def _key(value: Any) -> Any:
    """Return what an argument is known by: the layout of a tensor, else its value and, as 1 is 1.0, its type."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    return type(value), value


_mode = cache(FakeTensorMode)
"""The mode of all fake tensors here, made when it is first asked for: that imports torch's compiler."""

_ONE_AT_A_TIME = Lock()
"""Threads share the mode, which notes in one place what it replaces."""


@lru_cache(MOST_KNOWN)
def _known(call: _Call) -> Any:
    with _ONE_AT_A_TIME, _mode(), torch.no_grad():
        return call.target(*call.args, **call.kwargs)

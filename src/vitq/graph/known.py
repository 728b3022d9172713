"""What operations give on fake values, computed once for equal arguments: blocks repeat, and so do loaded models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

MOST_KNOWN = 1 << 13
"""Results that are kept; a DeiT-Tiny has some hundred different ones for each of three batches."""


@dataclass(frozen=True)
class _Call:
    """An operation with its arguments, equal to another where all that a fake result depends on is."""

    key: Any
    target: Any = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    kwargs: Mapping[str, Any] = field(compare=False)


def fake_like(tensor: torch.Tensor) -> Any:
    """Return a fake tensor of the layout of ``tensor``."""
    return _known(_call(torch.empty_strided, tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device))


def fake_empty(shape: Any, dtype: torch.dtype) -> Any:
    """Return a fake tensor of ``shape``."""
    return _known(_call(torch.empty, tuple(shape), dtype=dtype))


def result_of(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what operation ``target`` gives on fake tensors and numbers, of sizes without symbols; not to be changed.

    Raises what ``target`` raises.
    """
    return _known(_call(target, *args, **kwargs))


def _call(target: Any, *args: Any, **kwargs: Any) -> _Call:
    return _Call((target, _key(args), _key(tuple(kwargs.items()))), target, args, kwargs)


def _key(value: Any) -> Any:
    """Return what an argument is known by: a tensor's layout in its storage, else its value and, as 1 is 1.0, type."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage().nbytes(), value.storage_offset()
        return value.shape, value.stride(), *storage, value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    return type(value), value


_mode = cache(FakeTensorMode)
"""The mode of all fake tensors here, made when it is first asked for: that imports torch's compiler."""


@lru_cache(MOST_KNOWN)
def _known(call: _Call) -> Any:
    with _mode(), torch.no_grad():
        return call.target(*call.args, **call.kwargs)

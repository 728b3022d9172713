"""How operators and their arguments are written in JSON, and which of them a loaded file may name."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from vitq.errors import ArtifactError

_ARITHMETIC = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg")
_COMPARISON = ("eq", "ne", "lt", "le", "gt", "ge")
_SYMBOLIC_NUMBERS = ("sym_int", "sym_float", "sym_max", "sym_min")

SYMBOLIC: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _ARITHMETIC + _COMPARISON},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC_NUMBERS},
}
"""Functions on tuples and sizes that a graph may call beside ATen operators."""

_TORCH_CONSTANTS = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def encode_target(target: Any) -> str:
    """Return an operator's name (``aten.linear.default``); ArtifactError if it could not be loaded again."""
    name = next((n for n, function in SYMBOLIC.items() if function is target), str(target))
    decode_target(name)
    return name


def decode_target(name: str) -> Callable[..., Any]:
    """Return the operator called ``name``; ArtifactError unless it is pure ATen or one of ``SYMBOLIC``."""
    if name in SYMBOLIC:
        return SYMBOLIC[name]
    parts = re.fullmatch(r"aten\.(\w+)\.(\w+)", name)
    packet = getattr(torch.ops.aten, parts[1], None) if parts else None
    known = parts and isinstance(packet, torch._ops.OpOverloadPacket)
    overload = getattr(packet, parts[2], None) if parts and known else None
    if not isinstance(overload, torch._ops.OpOverload) or not _is_pure(overload):
        raise ArtifactError(
            f"operation '{name}' is not allowed in a saved graph: only ATen operators that compute new "
            f"tensors and {', '.join(sorted(SYMBOLIC))} are"
        )
    return overload


def encode_argument(argument: Any) -> Any:
    """Return the JSON form of one argument; ArtifactError for a type that has none."""
    if isinstance(argument, fx.Node):
        return {"node": argument.name}
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": repr(argument)}
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    if isinstance(argument, list):
        return [encode_argument(a) for a in argument]
    if isinstance(argument, tuple):
        return {"tuple": [encode_argument(a) for a in argument]}
    if isinstance(argument, slice):
        return {"slice": [encode_argument(a) for a in (argument.start, argument.stop, argument.step)]}
    if isinstance(argument, torch.device):
        return {"device": "cpu"}
    for kind, cls in _TORCH_CONSTANTS.items():
        if isinstance(argument, cls):
            return {kind: str(argument).removeprefix("torch.")}
    raise ArtifactError(f"an argument of type {type(argument).__name__} cannot be saved: {argument!r}")


def decode_argument(argument: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """Undo ``encode_argument``; ``nodes`` are the nodes so far, by name."""
    if isinstance(argument, list):
        return [decode_argument(a, nodes) for a in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, content),) = argument.items()
    if kind == "node":
        if content not in nodes:
            raise ArtifactError(f"node '{content}' of the saved graph is used before it is computed")
        return nodes[content]
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind == "tuple":
        return tuple(decode_argument(a, nodes) for a in content)
    if kind == "slice":
        return slice(*(decode_argument(a, nodes) for a in content))
    if kind == "device" and content == "cpu":
        return torch.device("cpu")
    if kind in _TORCH_CONSTANTS and isinstance(constant := getattr(torch, content, None), _TORCH_CONSTANTS[kind]):
        return constant
    raise ArtifactError(f"argument {argument!r} of the saved graph cannot be read")


def _is_pure(overload: torch._ops.OpOverload) -> bool:
    """Tell whether an operator only computes: it returns something, changes nothing and opens no file."""
    schema = overload._schema
    files = any("file" in argument.name for argument in schema.arguments)
    return bool(schema.returns) and not schema.is_mutable and not files

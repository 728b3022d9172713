"""How operators and their arguments are written in JSON, and which of them a loaded file may name."""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from vitq.errors import ArtifactError
from vitq.graph.grammar import DEEPEST, LARGEST_INTEGER, LONGEST, MOST_ITEMS, MOST_OUTPUTS
from vitq.graph.operators import is_allowed
from vitq.graph.outputs import NAME, TAKEN

_ARITHMETIC = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg")
_COMPARISON = ("eq", "ne", "lt", "le", "gt", "ge")
_SYMBOLIC_NUMBERS = ("sym_int", "sym_float", "sym_max", "sym_min")

SYMBOLIC: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _ARITHMETIC + _COMPARISON},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC_NUMBERS},
}
"""Functions on tuples and sizes that a graph may call beside ATen operators."""

_TORCH_CONSTANTS = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
_CONSTANTS = {
    (kind, name): value
    for kind, cls in _TORCH_CONSTANTS.items()
    for name, value in vars(torch).items()
    if isinstance(value, cls)
}
"""By kind and name: what was there when torch was imported, for its ``__getattr__`` imports modules."""


def encode_target(target: Any) -> str:
    """Return an operator's name (``aten.linear.default``); ArtifactError if it could not be loaded again."""
    name = next((n for n, function in SYMBOLIC.items() if function is target), str(target))
    decode_target(name)
    return name


def decode_target(name: str) -> Callable[..., Any]:
    """Return the operator called ``name``; ArtifactError unless it is listed in ``operators`` or ``SYMBOLIC``."""
    if name in SYMBOLIC:
        return SYMBOLIC[name]
    parts = re.fullmatch(r"aten\.(\w+)\.(\w+)", name)
    packet = getattr(torch.ops.aten, parts[1], None) if parts else None
    known = parts and isinstance(packet, torch._ops.OpOverloadPacket)
    overload = getattr(packet, parts[2], None) if parts and known else None
    if not isinstance(overload, torch._ops.OpOverload) or not is_allowed(overload):
        raise ArtifactError(
            f"operation '{name}' is not allowed in a saved graph: only the ATen operators of vitq.graph.operators "
            f"and {', '.join(sorted(SYMBOLIC))} are"
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


def encode_outputs(result: Any) -> Any:
    """Return the JSON form of what a graph returns: a node, or nodes by name."""
    if not isinstance(result, Mapping):
        return encode_argument(result)
    return {"outputs": [[name, encode_argument(node)] for name, node in result.items()]}


def decode_argument(argument: Any, nodes: Mapping[str, fx.Node], depth: int = 0) -> Any:
    """Undo ``encode_argument``; ``nodes`` are the nodes so far, by name. ArtifactError beyond the bounds of grammar."""
    if depth > DEEPEST:
        raise ArtifactError(f"an argument of the saved graph is nested deeper than {DEEPEST}")
    if isinstance(argument, list):
        return list(_decoded(argument, nodes, depth))
    if not isinstance(argument, dict):
        return _bounded(argument)
    if len(argument) != 1:
        raise ArtifactError(f"argument {argument!r} of the saved graph is of no kind")
    ((kind, content),) = argument.items()
    if kind == "node":
        if not isinstance(content, str) or content not in nodes:
            raise ArtifactError(f"node '{content}' of the saved graph is used before it is computed")
        return nodes[content]
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind == "tuple" and isinstance(content, list):
        return tuple(_decoded(content, nodes, depth))
    if kind == "slice" and isinstance(content, list) and len(content) == 3:
        return slice(*_decoded(content, nodes, depth))
    if kind == "device" and content == "cpu":
        return torch.device("cpu")
    if isinstance(content, str) and (kind, content) in _CONSTANTS:
        return _CONSTANTS[kind, content]
    raise ArtifactError(f"argument {argument!r} of the saved graph cannot be read")


def decode_outputs(argument: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """Return what a saved graph returns: a node, or several by name; ArtifactError for anything else."""
    if not isinstance(argument, dict) or list(argument) != ["outputs"]:
        return _one_output(argument, nodes)
    pairs = argument["outputs"]
    if not isinstance(pairs, list) or not 2 <= len(pairs) <= MOST_OUTPUTS:
        raise ArtifactError(f"the saved graph has no list of 2 to {MOST_OUTPUTS} outputs")
    found: dict[str, Any] = {}
    for pair in pairs:
        name = pair[0] if isinstance(pair, list) and len(pair) == 2 else None
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == TAKEN or name in found:
            raise ArtifactError("an output of the saved graph has no name of its own")
        found[name] = _one_output(pair[1], nodes)
    return found


def _one_output(argument: Any, nodes: Mapping[str, fx.Node]) -> fx.Node:
    result = decode_argument(argument, nodes)
    if not isinstance(result, fx.Node):
        raise ArtifactError("the saved graph returns neither a tensor nor tensors by name")
    return result


def _decoded(items: list[Any], nodes: Mapping[str, fx.Node], depth: int) -> Iterator[Any]:
    if len(items) > MOST_ITEMS:
        raise ArtifactError(f"an argument of the saved graph has {len(items)} items; {MOST_ITEMS} are the most")
    return (decode_argument(item, nodes, depth + 1) for item in items)


def _bounded(argument: Any) -> Any:
    """Return a number, a word or None as it is; ArtifactError for larger ones than any operator takes."""
    too_large = isinstance(argument, int) and abs(argument) > LARGEST_INTEGER + 1
    if too_large or (isinstance(argument, str) and len(argument) > LONGEST):
        raise ArtifactError("an argument of the saved graph is larger than any operator takes")
    return argument

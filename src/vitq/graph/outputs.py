"""The outputs of a model by name: what Python returns, and which nodes of a graph hold it."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import ModelError

Outputs = Mapping[str, torch.Tensor]
"""What a model returns for a batch, one row an image."""

ONLY = "logits"
"""Name of a single output, whatever it is called in its container."""

TAKEN = "images"
"""Name of the input in an exported file, which no output may have."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
"""A name of an output; an exported file has the same."""


def named_outputs(outputs: Any, leaf: type = torch.Tensor) -> dict[str, Any]:
    """Return the tensors in dicts, tuples, lists, dataclasses and their nestings, by name; a single one is ``ONLY``.

    A name is the path of keys and fields, joined by dots. A place in a tuple counts from 0: ``output_0``,
    ``features.1``. What is no letter, digit, ``_``, ``-`` or dot becomes ``_``. Raises ModelError where two outputs
    would have one name.
    """
    found: dict[str, Any] = {}
    for path, value in _leaves(outputs, leaf):
        name = _name(path)
        if name in found:
            raise ModelError(f"two outputs of the model would be called '{name}'; give their keys distinct names")
        found[name] = value
    return {ONLY: next(iter(found.values()))} if len(found) == 1 else found


def own_names(outputs: Any) -> tuple[str, ...]:
    """Return the names that the model itself gives its outputs, also to a single one; a bare tensor has none: ""."""
    return tuple(_name(path) if path else "" for path, _ in _leaves(outputs, torch.Tensor))


def named_leaves(outputs: Any) -> dict[str, torch.Tensor]:
    """Return all tensors of whatever a model gives, by their paths; of two of one name the last."""
    return {_name(path) if path else "output": value for path, value in _leaves(outputs, torch.Tensor)}


def refilled(template: Any, leaves: Iterator[torch.Tensor]) -> Any:
    """Return ``template`` with other tensors, in the order of ``named_outputs``; what is no tensor stays."""
    if isinstance(template, torch.Tensor):
        leaf = next(leaves)
        return leaf[:, 0] if leaf.ndim == template.ndim + 1 else leaf  # one number an image became a column
    if isinstance(template, Mapping):
        made = copy.copy(template)
        for key, value in template.items():
            made[key] = refilled(value, leaves)  # type: ignore[index]
        return made
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(refilled(value, leaves) for value in template))
    if isinstance(template, tuple | list):
        return type(template)(refilled(value, leaves) for value in template)
    if is_dataclass(template) and not isinstance(template, type):
        return replace(template, **{f.name: refilled(getattr(template, f.name), leaves) for f in fields(template)})
    return template


def as_outputs(result: torch.Tensor | Outputs) -> Outputs:
    """Return by name what a graph gave."""
    return {ONLY: result} if isinstance(result, torch.Tensor) else result


def returned(graph: fx.Graph) -> dict[str, fx.Node]:
    """Return the nodes that ``graph`` returns, by the name of the output."""
    result: Any = next(iter(graph.find_nodes(op="output"))).args[0]
    return {ONLY: result} if isinstance(result, fx.Node) else dict(result)


def form(nodes: Mapping[str, Any]) -> Any:
    """Return what an output node holds: the node of a single output, else nodes by name."""
    return nodes[ONLY] if list(nodes) == [ONLY] else dict(nodes)


class Named(nn.Module):
    """A segment that returns tensors by name, whether it returns one or a tuple."""

    def __init__(self, segment: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.segment, self.names = segment, names

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs for a batch."""
        result = self.segment(x)
        return dict(zip(self.names, result if isinstance(result, tuple) else (result,), strict=True))


def _leaves(outputs: Any, leaf: type, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk through the tensors with their paths."""
    if isinstance(outputs, leaf):
        yield path, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _leaves(value, leaf, (*path, str(key)))
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        for name in outputs._fields:
            yield from _leaves(getattr(outputs, name), leaf, (*path, name))
    elif isinstance(outputs, tuple | list):
        for index, value in enumerate(outputs):
            yield from _leaves(value, leaf, (*path, str(index)))
    elif is_dataclass(outputs) and not isinstance(outputs, type):
        for field in fields(outputs):
            yield from _leaves(getattr(outputs, field.name), leaf, (*path, field.name))


def _name(path: tuple[str, ...]) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", ".".join(path))[:190]
    return name if NAME.fullmatch(name) and name != TAKEN else f"output_{name}"

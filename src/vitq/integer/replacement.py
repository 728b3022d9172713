"""What takes the place of an operation, and the quantizers through which it reads its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from vitq.graph.ops import origin
from vitq.quantizers import IntegerView, Quantizer

SUM_BITS = 62
"""Bits of the largest sum."""


class Replacement(NamedTuple):
    """An integer operation and its arguments."""

    operation: nn.Module
    arguments: tuple[Any, ...]


class Codes(NamedTuple):
    """Where codes come from: the tensor, its quantizer, and its values in whole steps.

    ``places_P``: the tokens that have parameters of their own, where there are two kinds.
    """

    tensor: fx.Node
    quantizer: Quantizer
    view: IntegerView | None
    places_P: torch.Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """The copy that is changed, and the quantizers of its frozen weights by the nodes that read them."""

    module: fx.GraphModule
    weights: Mapping[str, Quantizer]

    def codes(self, node: Any) -> Codes | str:
        """Return the codes that an operation reads at ``node``; why there are none, in plain words."""
        found = self.kinds(node)
        if isinstance(found, str) or len(found) == 1:
            return found if isinstance(found, str) else found[0]
        return "some tokens of what it reads have a scale of their own"

    def kinds(self, node: Any) -> tuple[Codes, ...] | str:
        """Return the codes of ordinary tokens, and of those with parameters of their own where there are any."""
        if isinstance(node, fx.Node) and node.op == "call_module":
            found, tensor = self.module.get_submodule(str(node.target)), node.args[0]
            if isinstance(found, Quantizer) and isinstance(tensor, fx.Node):
                return tuple(Codes(tensor, part, part.whole_steps(), found.places_P) for part in found.parts)
        image = isinstance(node, fx.Node) and origin(node).op == "placeholder"
        return "the image has no codes" if image else "not all that it reads is quantized"

    def steps(self, node: Any) -> Codes | str:
        """Return codes whose values are whole steps; why there are none."""
        found = self.codes(node)
        return found if isinstance(found, str) else _why_no_steps((found,)) or found

    def steps_of_kinds(self, node: Any) -> tuple[Codes, ...] | str:
        """Return ``kinds`` whose values are whole steps; why there are none."""
        found = self.kinds(node)
        return found if isinstance(found, str) else _why_no_steps(found) or found


def _why_no_steps(found: tuple[Codes, ...]) -> str | None:
    """Say which format has no whole steps, None where all have."""
    without = [codes for codes in found if codes.view is None]
    return f"what it reads, {without[0].quantizer.format}, is no whole steps of one scale" if without else None

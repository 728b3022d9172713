"""What takes the place of an operation, and the quantizers through which it reads its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """Where codes come from: the tensor, its quantizer, and its values in whole steps."""

    tensor: fx.Node
    quantizer: Quantizer
    view: IntegerView | None


@dataclass(frozen=True)
class Scene:
    """The copy that is changed, and the quantizers of its frozen weights by the nodes that read them."""

    module: fx.GraphModule
    weights: Mapping[str, Quantizer]

    def codes(self, node: Any) -> Codes | str:
        """Return the codes that an operation reads at ``node``; why there are none, in plain words."""
        if isinstance(node, fx.Node) and node.op == "call_module":
            found, tensor = self.module.get_submodule(str(node.target)), node.args[0]
            if isinstance(found, Quantizer) and found.outliers is not None:
                return "some tokens of what it reads have a scale of their own"
            if isinstance(found, Quantizer) and isinstance(tensor, fx.Node):
                return Codes(tensor, found, found.whole_steps())
        image = isinstance(node, fx.Node) and origin(node).op == "placeholder"
        return "the image has no codes" if image else "not all that it reads is quantized"

    def steps(self, node: Any) -> Codes | str:
        """Return codes whose values are whole steps; why there are none."""
        found = self.codes(node)
        if isinstance(found, str) or found.view is not None:
            return found
        return f"what it reads, {found.quantizer.format}, is no whole steps of one scale"

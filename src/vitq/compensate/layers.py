"""Quantized layers whose weight is a matrix of their own: what they read, and how one column is rounded."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph import Graph
from vitq.graph.edit import node_named
from vitq.graph.ops import LINEAR, aten, is_op
from vitq.graph.parameters import behind_quantizer, require_own
from vitq.graph.queries.layers import groups_of
from vitq.quantizers import Quantizer
from vitq.quantizers.kernels import simulate


@dataclass(frozen=True)
class QuantizedLayer:
    """A linear or a convolution without groups, by the name of its weight's site; ``weight`` is O, I and a kernel."""

    name: str
    op: fx.Node
    quantizer: Quantizer
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def reads(self) -> fx.Node:
        """The node whose tensor meets the weight: that of a quantizer, where the input has one."""
        node = self.op.args[0]
        assert isinstance(node, fx.Node)
        return node

    @property
    def channel_scale(self) -> torch.Tensor | None:
        """The quantizer's scale, where codes are whole steps of one scale for each output; else None."""
        quantizer = self.quantizer
        own = quantizer.codec.uniform and quantizer.axis == 0 and not quantizer.format.granularity.size
        return quantizer.get_parameter("scale") if own else None

    @property
    def keys(self) -> dict[str, str]:
        """Names of its tensors in a checkpoint."""
        return {"weight": self.name, **{part: f"{self.name}, {part}" for part in self._parts() if part != "weight"}}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return copies of weight, bias and scale of each output, as far as it has them."""
        return {part: tensor.detach().clone() for part, tensor in self._parts().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set what is given in place."""
        own = self._parts()
        for part, tensor in tensors.items():
            own[part].copy_(tensor)

    def _parts(self) -> dict[str, torch.Tensor]:
        parts = {"weight": self.weight, "bias": self.bias, "scale": self.channel_scale}
        return {part: tensor for part, tensor in parts.items() if tensor is not None}

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return x_TI: what meets the rows of the weight, for a convolution the patches under its kernel."""
        if is_op(self.op, LINEAR):
            return x.reshape(-1, x.shape[-1])
        given = dict(zip(("stride", "padding", "dilation"), self.op.args[3:6], strict=False))
        patches_NIT = torch.nn.functional.unfold(x, self.weight.shape[2:], **given)  # type: ignore[arg-type]
        return patches_NIT.transpose(1, 2).reshape(-1, patches_NIT.shape[1])

    def round_column(self, w_O1: torch.Tensor, place: int) -> torch.Tensor:
        """Return the quantizer's values of column ``place``."""
        quantizer, size = self.quantizer, self.quantizer.format.granularity.size
        held = quantizer.parameters_dict()
        for parameter in quantizer.codec.parameters:
            if not parameter.shared and quantizer.axis is not None:
                own = parameter.own(quantizer.format.bits)
                rows = held[parameter.name].reshape(len(w_O1), -1, *own)
                held[parameter.name] = rows[:, place // size :][:, :1] if size else rows
        return simulate(quantizer.codec, w_O1, None, quantizer.format.qmax, held)


def quantized_layers(graph: Graph) -> tuple[list[QuantizedLayer], dict[str, str]]:
    """Return the layers whose weights are quantized, and by its weight's site why another one is left alone."""
    found, refused = list[QuantizedLayer](), dict[str, str]()
    for site in graph.sites.values():
        quantizer = graph.quantizers.get(site.name)
        if not site.is_weight or quantizer is None:
            continue
        op = node_named(graph.module, site.consumers[0])
        try:
            found.append(_layer(graph, site.name, op, quantizer, site.node))
        except GraphError as error:
            refused[site.name] = str(error)
    return found, refused


def _layer(graph: Graph, name: str, op: fx.Node, quantizer: torch.nn.Module, node: str) -> QuantizedLayer:
    if not is_op(op, LINEAR | {aten.conv2d.default}):
        raise GraphError(f"'{op.name}' is neither a linear nor a plain two-dimensional convolution")
    if not is_op(op, LINEAR) and groups_of(op) > 1:
        raise GraphError(f"'{op.name}' is a convolution in groups")
    require_own(graph, op, 1)
    bias = None
    if len(op.args) > 2 and isinstance(op.args[2], fx.Node):
        require_own(graph, op, 2)
        bias = graph.parameter(behind_quantizer(op.args[2]).name)[1]
    assert isinstance(quantizer, Quantizer)
    return QuantizedLayer(name, op, quantizer, graph.parameter(node)[1], bias)

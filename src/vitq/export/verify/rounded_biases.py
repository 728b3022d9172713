"""Codes that ONNX Runtime moves by right: it rounds the bias of an integer convolution to whole steps of its products.

A bias that is r off moves the share r / s of the codes behind it, s their step: up to three thousandths at 8 bits.
"""

from collections.abc import Mapping

import torch
from torch import fx

from vitq.graph import Graph
from vitq.graph.ops import CONV, aten, attribute, is_op
from vitq.quantizers import Quantizer

FUSED = {aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.leaky_relu.default}
"""What may stand between an integer convolution and the quantizer behind it."""


def moved_by_biases(graph: Graph, weights: Mapping[str, Quantizer]) -> dict[str, float]:
    """Return the share of codes that rounded biases may move, by the site that is quantized behind a convolution.

    Source: vitq, of the int32 bias that ONNX's QLinearConv takes.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    by_reader = {reader: quantizer for name, quantizer in weights.items() for reader in graph.sites[name].consumers}
    found = {}
    for name, quantizer in graph.quantizers.items():
        view = quantizer.integer_view() if isinstance(quantizer, Quantizer) else None
        product = _behind(nodes[graph.sites[name].node])
        weight = by_reader.get(product.name) if is_op(product, CONV) and len(product.users) == 1 else None
        residue_C = None if weight is None else _residue(graph.module, product, weight)
        if residue_C is not None and view is not None:
            found[name] = float((residue_C / view.scale.min()).clamp(max=1).mean())
    return found


def _behind(node: fx.Node) -> fx.Node:
    """Return what an activation function reads that a runtime takes into the convolution."""
    while is_op(node, FUSED) and len(node.users) == 1:
        node = node.all_input_nodes[0]
    return node


def _residue(module: fx.GraphModule, product: fx.Node, weight: Quantizer) -> torch.Tensor | None:
    """Return how far each channel's bias is from a whole step; None for what runs in no integer kernel."""
    x, bias = product.args[0], product.args[2] if len(product.args) > 2 else None
    source = attribute(module, str(x.target)) if isinstance(x, fx.Node) and x.op == "call_module" else None
    view = source.integer_view() if isinstance(source, Quantizer) and source.has_integer_values else None
    steps = weight.integer_view()
    if view is None or steps is None or not isinstance(bias, fx.Node) or bias.op != "get_attr":
        return None
    bias_C: torch.Tensor = attribute(module, str(bias.target)).detach()
    step_C = view.scale.flatten() * steps.scale.flatten()
    return (bias_C - (bias_C / step_C).round() * step_C).abs()

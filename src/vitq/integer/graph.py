"""A copy of a graph whose products are of integer codes, wherever both sides have them."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from vitq.errors import ExportError
from vitq.graph import Graph
from vitq.graph.edit import replace
from vitq.graph.ops import LINEAR, MATMUL, aten, attribute, is_op, value
from vitq.integer.modules import IntegerConvolution, IntegerLinear, IntegerProduct
from vitq.quantizers import Quantizer

CONVOLUTION = {aten.conv2d.default}
DEFAULTS: tuple[Any, ...] = (None, [1, 1], [0, 0], [1, 1], 1)
"""Of a convolution's bias, stride, padding, dilation and groups."""

Replacement = tuple[nn.Module, tuple[Any, ...]]
"""An integer operation and its arguments."""


@dataclass(frozen=True)
class IntegerGraph:
    """The copy that runs, and how many of its operations multiply integers: ``products`` are those of attention."""

    module: fx.GraphModule
    linears: int
    convolutions: int
    products: int


def integer_graph(graph: Graph, weights: Mapping[str, Quantizer]) -> IntegerGraph:
    """Return a copy of ``graph`` with integer linears, convolutions and products of two activations.

    An operation stays in floating point where a side has no codes in steps of one scale (for attention: one per head):
    the image, which no scope quantizes, and with it the patch embedding; logarithmic probabilities; sites outside the
    scope. So do convolutions in groups, and all that is no product: softmax, norms, activation functions and sums.
    Raises ExportError where nothing is left.
    """
    module = copy.deepcopy(graph.module)
    of_node = {graph.sites[name].node: quantizer for name, quantizer in weights.items()}
    counts = Counter[type]()
    for node in list(module.graph.nodes):
        found = _product(module, node) if is_op(node, MATMUL) else _layer(module, node, of_node)
        if found is None:
            continue
        operation, arguments = found
        module.add_submodule(f"integer_{node.name}", operation)
        with module.graph.inserting_before(node):
            new = module.graph.call_module(f"integer_{node.name}", arguments)
        replace(module, node, new, keep_name=False)
        counts[type(operation)] += 1
    if not counts:
        raise ExportError("no product of this model has integer codes on both sides, so there is nothing to run")
    module.graph.eliminate_dead_code()
    module.recompile()
    return IntegerGraph(module, counts[IntegerLinear], counts[IntegerConvolution], counts[IntegerProduct])


def _product(module: fx.GraphModule, node: fx.Node) -> Replacement | None:
    """Return the integer product of two activations, if both have whole steps, of a scale per head at most."""
    a, b = node.args[:2]
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    left, right = _quantizer(module, a), _quantizer(module, b)
    if left is None or right is None or min(value(a).ndim, value(b).ndim) < 3:
        return None
    if any(quantizer.axis is not None and quantizer.axis > -3 for quantizer in (left, right)):
        return None
    return IntegerProduct(left, right), (a.args[0], b.args[0])


def _layer(module: fx.GraphModule, node: fx.Node, weights: Mapping[str, Quantizer]) -> Replacement | None:
    """Return the integer linear or convolution, if its input has one scale and its weight one per output at most."""
    if not is_op(node, LINEAR | CONVOLUTION):
        return None
    entry, source, *rest = node.args
    assert isinstance(entry, fx.Node) and isinstance(source, fx.Node)
    reader, weight = _quantizer(module, entry), weights.get(source.name)
    if reader is None or reader.axis is not None or weight is None or (view := weight.integer_view()) is None:
        return None
    codes = view.spread(weight.encode(attribute(module, str(source.target))))
    linear = IntegerLinear(reader, codes.flatten(1), view)
    if is_op(node, LINEAR):
        return linear, (entry.args[0], *rest)
    given: list[Any] = [*rest, *DEFAULTS[len(rest) :]]
    bias, stride, padding, dilation, groups = given
    if groups != 1:
        return None
    geometry = [_pair(sides) for sides in (codes.shape[2:], stride, padding, dilation)]
    return IntegerConvolution(linear, *geometry), (entry.args[0], bias)


def _pair(given: Any) -> tuple[int, int]:
    """Return one number for both directions, or one for each, as one for each."""
    return given[0], given[-1]


def _quantizer(module: fx.GraphModule, node: Any) -> Quantizer | None:
    """Return the quantizer that ``node`` calls, if its values are whole steps of at most 8 bits."""
    found = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, Quantizer) and found.integer_view() is not None else None

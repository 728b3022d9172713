"""Linears, convolutions and products of two activations on integer codes, where both sides have them."""

from dataclasses import replace

from torch import fx

from vitq.graph.convolution import convolution
from vitq.graph.ops import LINEAR, attribute, is_op, value
from vitq.integer.modules import IntegerConvolution, IntegerLinear, IntegerProduct
from vitq.integer.replacement import SUM_BITS, Replacement, Scene
from vitq.quantizers.scales import INTEGER_STEPS

MOST_TOKENS = 1 << 16
"""Of an attention whose number of tokens is not fixed."""


def product(scene: Scene, node: fx.Node) -> Replacement | str:
    """Return the integer product of two activations, if both have whole steps, of a scale per head at most."""
    a, b = (scene.steps(operand) for operand in node.args[:2])
    if isinstance(a, str) or isinstance(b, str):
        return a if isinstance(a, str) else str(b)
    sides = (a.quantizer, b.quantizer)
    if min(value(operand).ndim for operand in node.args[:2]) < 3:  # type: ignore[arg-type]
        return "it multiplies matrices without heads"
    if any(quantizer.axis is not None and quantizer.axis > -3 for quantizer in sides):
        return "scales differ inside its sums"
    assert a.view is not None and b.view is not None
    inner = value(node.args[0]).shape[-1]  # type: ignore[arg-type]
    steps = (a.view.steps, b.view.steps, inner if isinstance(inner, int) else MOST_TOKENS)
    if sum(number.bit_length() for number in steps) > SUM_BITS:
        return "its sums exceed 64 bits"
    return Replacement(IntegerProduct(*sides), (a.tensor, b.tensor))


def layer(scene: Scene, node: fx.Node) -> Replacement | str:
    """Return the integer linear or convolution, if its input has one scale and its weight one per output at most."""
    geometry = None if is_op(node, LINEAR) else convolution(node)
    if geometry is None and not is_op(node, LINEAR):
        return "convolutions of its kind are not in integers"
    entry, source, *rest = node.args
    assert isinstance(source, fx.Node)
    reader, weight = scene.steps(entry), scene.weights.get(source.name)
    if isinstance(reader, str):
        return reader
    if reader.quantizer.axis is not None:
        return "scales of its input differ inside its sums"
    if weight is None:
        return "its weight is not quantized"
    view = weight.whole_steps()
    if view is None or view.steps > INTEGER_STEPS:
        return f"its weight, {weight.format}, is no whole steps of one scale"
    codes = view.spread(weight.encode(attribute(scene.module, str(source.target))))
    bias = rest[0] if rest else None
    if geometry is None:
        return Replacement(IntegerLinear(reader.quantizer, codes, view), (reader.tensor, bias))
    if geometry.transposed and weight.axis is not None:  # an output of each group has the same scale
        scale, zero = (t.flatten().repeat(geometry.groups) for t in (view.scale, view.zero_point))
        view = replace(view, scale=scale, zero_point=zero)
    linear = IntegerLinear(reader.quantizer, geometry.weight_matrix(codes), view, geometry.groups)
    return Replacement(IntegerConvolution(linear, geometry), (reader.tensor, bias))

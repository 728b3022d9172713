"""Linears, convolutions and products of two activations on integer codes, where both sides have them."""

from typing import Any

from torch import fx

from vitq.graph.ops import LINEAR, aten, attribute, is_op, value
from vitq.integer.modules import IntegerConvolution, IntegerLinear, IntegerProduct
from vitq.integer.replacement import SUM_BITS, Replacement, Scene
from vitq.quantizers.scales import INTEGER_STEPS

CONVOLUTION = {aten.conv2d.default}
DEFAULTS: tuple[Any, ...] = (None, [1, 1], [0, 0], [1, 1], 1)
"""Of a convolution's bias, stride, padding, dilation and groups."""

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
    if not is_op(node, LINEAR | CONVOLUTION):
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
    linear = IntegerLinear(reader.quantizer, codes.flatten(1), view)
    if is_op(node, LINEAR):
        return Replacement(linear, (reader.tensor, *rest))
    given: list[Any] = [*rest, *DEFAULTS[len(rest) :]]
    bias, stride, padding, dilation, groups = given
    if groups != 1:
        return "it is a convolution in groups"
    geometry = [_pair(sides) for sides in (codes.shape[2:], stride, padding, dilation)]
    return Replacement(IntegerConvolution(linear, *geometry), (reader.tensor, bias))


def _pair(given: Any) -> tuple[int, int]:
    """Return one number for both directions, or one for each, as one for each."""
    return given[0], given[-1]

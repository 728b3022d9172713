"""The one search of rewrites: the error of layers' outputs when both operands are quantized as they will be.

Bits, granularity and symmetry are those that the steps ahead place. Every format is taken as affine, and where no step
ahead places anything, operands have the run's bits, activations per tensor and weights per output channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitq.graph import Graph
from vitq.graph.ops import LINEAR, MATMUL, is_op
from vitq.graph.queries import Consumer
from vitq.quantizers import affine_from_range, fake_quantize_affine
from vitq.run.placed import Placed

if TYPE_CHECKING:
    from vitq.run.run import Run

MAX_TOKENS = 2048
"""About how many positions of an input a search looks at."""

CLIPS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
"""Shares of its range that an input is tried with."""


@dataclass(frozen=True)
class Operand:
    """How a tensor will be quantized: affine codes, and the axis with parameters of its own."""

    bits: int
    axis: int | None = None
    symmetric: bool = False

    def __call__(self, x: torch.Tensor, clip: float = 1.0) -> torch.Tensor:
        """Return x̂ for the share ``clip`` of the tensor's range."""
        rest = [dim for dim in range(x.ndim) if self.axis is None or dim != self.axis % x.ndim]
        low, high = x.amin(rest, keepdim=True), x.amax(rest, keepdim=True)
        scale, zero = affine_from_range(low * clip, high * clip, self.bits, self.symmetric)
        return fake_quantize_affine(x, scale, zero, 2**self.bits - 1)


def affine(bits: int, axis: int | None = None) -> Operand:
    """Return codes of at most 8 bits, which is what is searched for where a run has more."""
    return Operand(min(bits, 8), axis)


class Plan:
    """What the steps ahead of a run will place, by site; without ``known``, or where they place nothing, a guess."""

    def __init__(self, run: "Run", *, known: bool = True) -> None:
        self.bits = run.bits
        plan = run.placed_ahead() if known else {}
        sites = run.student.sites
        self.known = bool(plan)
        self.by_node: Mapping[str, Placed] = {sites[name].node: placed for name, placed in plan.items()}

    def activation(self, node: str) -> Operand | None:
        """Return how the tensor at ``node`` will be quantized; None: not at all."""
        return self._operand(node) if self.known else affine(self.bits.activations)

    def weight(self, node: str) -> Operand | None:
        """Return how the weight at ``node`` will be quantized; None: not at all."""
        return self._operand(node) if self.known else affine(self.bits.weights, 0)

    def _operand(self, node: str) -> Operand | None:
        placed = self.by_node.get(node)
        return None if placed is None else Operand(placed.format.bits, placed.axis, placed.format.symmetric)


@dataclass(frozen=True)
class Layer:
    """One layer of a search: its thinned input and its weight, and how both will be quantized."""

    consumer: Consumer
    x: torch.Tensor
    weight: torch.Tensor
    activation: Operand | None
    weights: Operand | None

    def output(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return what the layer computes without its bias."""
        op = self.consumer.op
        if is_op(op, LINEAR | MATMUL):
            operands = (x, weight) if self.consumer.weight == 1 else (weight, x)
            result: torch.Tensor = op.target(*operands)  # type: ignore[operator]
            return result
        result = op.target(x, weight, None, *op.args[3:])  # type: ignore[operator]
        return result


def layer(graph: Graph, plan: Plan, consumer: Consumer, x: torch.Tensor) -> Layer:
    """Return ``consumer`` with about ``MAX_TOKENS`` positions of its input: rows of a linear's, else first images."""
    activation = plan.activation(consumer.source.name)
    if is_op(consumer.op, LINEAR) and (activation is None or activation.axis in (None, -1)):
        x = x.reshape(-1, x.shape[-1])
        x = x[:: max(len(x) // MAX_TOKENS, 1)]
    else:
        positions = x[0].numel() // x.shape[consumer.frame.axis]
        x = x[: max(MAX_TOKENS // max(positions, 1), 1)]
    weight = graph.parameter(consumer.weight_node.name)[1]
    return Layer(consumer, x, weight, activation, plan.weight(consumer.weight_node.name))


@torch.no_grad()
def output_error(
    layers: Sequence[Layer], ratio_C: torch.Tensor | None = None, offset_C: torch.Tensor | None = None
) -> float:
    """Return the least squared error, over clips of the input, of the layers' outputs for (x - offset) / ratio."""
    totals = [0.0] * len(CLIPS)
    for layer in layers:
        x, weight = layer.x, layer.weight
        if offset_C is not None:
            x = x - layer.consumer.along(offset_C).to(x)
        exact = layer.output(x, weight)
        if ratio_C is not None:
            x = x / layer.consumer.along(ratio_C).to(x)
            weight = weight * layer.consumer.spread(ratio_C).to(weight)
        w_hat = weight if layer.weights is None else layer.weights(weight)
        size = weight.numel() / layer.consumer.channels
        for number, clip in enumerate(CLIPS):
            x_hat = x if layer.activation is None else layer.activation(x, clip)
            totals[number] += size * float((layer.output(x_hat, w_hat) - exact).square().mean())
    return min(totals)

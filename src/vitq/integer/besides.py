"""What scope ``full`` quantizes beside products, on integer codes: functions, softmax, norms and residual sums."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from vitq.graph.ops import aten, attribute, is_op, value
from vitq.graph.readings import Reading
from vitq.graph.role import Role
from vitq.integer.functions import (
    IntegerNorm,
    IntegerSoftmax,
    IntegerSum,
    IntegerTable,
    evenly_scaled,
    units,
    whole_zeros,
)
from vitq.integer.replacement import SUM_BITS, Replacement, Scene
from vitq.quantizers import Quantizer

MOST_STEPS = 1 << 16
"""Steps of the widest codes that a table of exponentials or a residual sum takes."""


def besides(scene: Scene, readings: Sequence[Reading]) -> Replacement | str:
    """Return what computes the operation of ``readings`` from codes; why it stays in floating point."""
    (first, *_) = readings
    if first.role is Role.RESIDUAL:
        return _sum(scene, first.owner)
    if first.role is Role.SOFTMAX_INPUT:
        return _softmax(scene, first)
    return _norm(scene, first.owner) if first.role is Role.NORM_INPUT else _table(scene, first)


def _sum(scene: Scene, node: fx.Node) -> Replacement | str:
    sides = [scene.steps(operand) for operand in node.args[:2]]
    found = [side for side in sides if not isinstance(side, str)]
    if len(found) != 2:
        return next(side for side in sides if isinstance(side, str))
    views = [side.view for side in found if side.view is not None]
    if node.kwargs or not whole_zeros(*views) or any(view.steps > MOST_STEPS for view in views):
        return "its operands have no whole steps that a sum holds"
    return Replacement(IntegerSum(*(side.quantizer for side in found)), tuple(side.tensor for side in found))


def _softmax(scene: Scene, reading: Reading) -> Replacement | str:
    node, (reader,) = reading.owner, reading.readers
    if reader is not node:
        return f"'{reader.name}' adds a bias or a mask in floating point before it"
    codes = scene.steps(node.args[0])
    if isinstance(codes, str):
        return codes
    dim, axis = int(node.args[1]), codes.quantizer.axis  # type: ignore[arg-type]
    dim -= value(codes.tensor).ndim if dim >= 0 else 0
    assert codes.view is not None
    if axis is not None and axis >= dim:
        return "scales differ inside its sums"
    if codes.view.steps > MOST_STEPS:
        return "its codes are too wide for a table"
    return Replacement(IntegerSoftmax(codes.quantizer, dim), (codes.tensor,))


def _norm(scene: Scene, node: fx.Node) -> Replacement | str:
    if not is_op(node, {aten.layer_norm.default, aten.rms_norm.default}):
        return "norms of its kind are not in integers"
    codes = scene.steps(node.args[0])
    if isinstance(codes, str):
        return codes
    assert codes.view is not None
    if not evenly_scaled(codes.view) or not whole_zeros(codes.view):
        return "scales of its channels are no whole multiples of one"
    centred = is_op(node, {aten.layer_norm.default})
    shape, *rest = node.args[1:]
    given: list[Any] = [*rest, *(None,) * 3]
    eps = given[2 if centred else 1]
    eps = (1e-5 if centred else torch.finfo(torch.float32).eps) if eps is None else eps
    count = int(torch.Size(shape).numel())  # type: ignore[arg-type]
    largest = codes.view.steps.bit_length() + int(units(codes.view)[1].max()).bit_length() + count.bit_length()
    if 2 * largest > SUM_BITS:
        return "its sums exceed 64 bits"
    operation = IntegerNorm(codes.quantizer, len(shape), float(eps), centred=centred)  # type: ignore[arg-type]
    return Replacement(operation, (codes.tensor, *given[: 2 if centred else 1]))


def _table(scene: Scene, reading: Reading) -> Replacement | str:
    entries = {node for reader in reading.readers for node in reader.all_input_nodes if node not in reading.inside}
    entries = {node for node in entries if node.op != "get_attr"}
    if len(entries) != 1:
        return "not all that it reads is quantized"
    (entry,) = entries
    codes = scene.codes(entry)
    if isinstance(codes, str):
        return codes
    values = _values(scene, reading, entry, codes.quantizer)
    return values if isinstance(values, str) else Replacement(IntegerTable(codes.quantizer, values), (codes.tensor,))


@torch.no_grad()
def _values(scene: Scene, reading: Reading, entry: fx.Node, quantizer: Quantizer) -> torch.Tensor | str:
    """Return what the function of ``reading`` makes of the value of every code, a row for each set of parameters."""
    if value(reading.owner).shape != value(entry).shape:
        return "it is no function of each value alone"
    axis = -1 if quantizer.axis is None else quantizer.axis
    rows = 1 if quantizer.axis is None else value(entry).shape[axis]
    codes_Q = torch.arange(quantizer.format.qmax + 1, dtype=torch.uint8, device=quantizer.device)
    every = codes_Q.reshape(-1, *[1] * -axis).expand(-1, rows, *[1] * (-1 - axis))
    known: dict[fx.Node, torch.Tensor] = {entry: quantizer.decode(every)}
    for node in sorted(reading.inside):
        for stored in (n for n in node.all_input_nodes if n.op == "get_attr"):
            known[stored] = attribute(scene.module, str(stored.target))
            if known[stored].numel() != 1:
                return "it has parameters for each channel"
        if any(n not in known for n in node.all_input_nodes):
            return "it is no function of one tensor"
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: known[n])
        known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    found = known[reading.owner]
    return found.flatten(1).T if found.shape == every.shape else "it is no function of each value alone"

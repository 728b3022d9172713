"""What scope ``full`` quantizes beside products, on integer codes: functions, softmax, norms and residual sums."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from vitq.graph.ops import aten, attribute, is_op, value
from vitq.graph.readings import Reading
from vitq.graph.role import Role
from vitq.integer.functions import (
    IntegerNorm,
    IntegerSoftmax,
    IntegerSum,
    IntegerTable,
    TokensApart,
    units,
    whole_zeros,
)
from vitq.integer.replacement import SUM_BITS, Codes, Replacement, Scene
from vitq.quantizers import Quantizer
from vitq.quantizers.tokens import AXIS

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
    sides = [scene.steps_of_kinds(operand) for operand in node.args[:2]]
    found = [side for side in sides if not isinstance(side, str)]
    if len(found) != 2:
        return next(side for side in sides if isinstance(side, str))
    if node.kwargs or not all(_fits_a_sum(codes) for side in found for codes in side):
        return "its operands have no whole steps that a sum holds"
    tensors = tuple(side[0].tensor for side in found)
    left, right = found
    if len(left) != len(right) or (len(left) == 2 and not _same_tokens(left[0], right[0])):
        return "its operands have scales of their own for other tokens"
    sums = [IntegerSum(a.quantizer, b.quantizer) for a, b in zip(left, right, strict=True)]
    return Replacement(_of_kinds(sums, left[0], len(tensors)), tensors)


def _fits_a_sum(codes: Codes) -> bool:
    return codes.view is not None and whole_zeros(codes.view) and codes.view.steps <= MOST_STEPS


def _same_tokens(a: Codes, b: Codes) -> bool:
    assert a.places_P is not None and b.places_P is not None
    return value(a.tensor).shape[AXIS] == value(b.tensor).shape[AXIS] and torch.equal(a.places_P, b.places_P)


def _of_kinds(operations: Sequence[nn.Module], codes: Codes, operands: int) -> nn.Module:
    """Return the one operation, or both together for the tokens that they are for."""
    ordinary, *own = operations
    if not own:
        return ordinary
    assert codes.places_P is not None
    return TokensApart(ordinary, own[0], codes.places_P, operands)


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
    kinds = scene.steps_of_kinds(node.args[0])
    if isinstance(kinds, str):
        return kinds
    centred = is_op(node, {aten.layer_norm.default})
    shape, *rest = node.args[1:]
    given: list[Any] = [*rest, *(None,) * 3]
    eps = given[2 if centred else 1]
    eps = (1e-5 if centred else torch.finfo(torch.float32).eps) if eps is None else eps
    sizes = torch.Size(shape)  # type: ignore[arg-type]
    why = next((reason for codes in kinds if (reason := _why_no_norm(codes, sizes.numel())) is not None), None)
    if why is not None:
        return why
    norms = [IntegerNorm(codes.quantizer, len(sizes), float(eps), centred=centred) for codes in kinds]
    return Replacement(_of_kinds(norms, kinds[0], 1), (kinds[0].tensor, *given[: 2 if centred else 1]))


def _why_no_norm(codes: Codes, count: int) -> str | None:
    assert codes.view is not None
    found = units(codes.view)
    if found is None or not whole_zeros(codes.view):
        return "scales of its channels are no whole multiples of one"
    largest = codes.view.steps.bit_length() + int(found[1].max()).bit_length() + count.bit_length()
    return "its sums exceed 64 bits" if 2 * largest > SUM_BITS else None


def _table(scene: Scene, reading: Reading) -> Replacement | str:
    entries = {node for reader in reading.readers for node in reader.all_input_nodes if node not in reading.inside}
    entries = {node for node in entries if node.op != "get_attr"}
    if len(entries) != 1:
        return "not all that it reads is quantized"
    (entry,) = entries
    kinds = scene.kinds(entry)
    if isinstance(kinds, str):
        return kinds
    tables = list[IntegerTable]()
    for codes in kinds:
        values = _values(scene, reading, entry, codes.quantizer)
        if isinstance(values, str):
            return values
        tables.append(IntegerTable(codes.quantizer, values))
    return Replacement(_of_kinds(tables, kinds[0], 1), (kinds[0].tensor,))


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

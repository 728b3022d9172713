"""Weights of any levels: codes look values up in tables, which a runtime does once, when it loads the file."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.errors import ExportError
from vitq.export.lowerings.lowering import Arguments, Codes, WeightLowering, carried, register_lowering
from vitq.export.operators import op, to_int32, translated_by
from vitq.quantizers import Quantizer


@torch.library.custom_op("vitq::lookup", mutates_args=())
def lookup(codes: Tensor, table: Tensor, first: Tensor, axis: int) -> Tensor:
    """Return the values of codes from ``first`` on; the table is (O, T) where outputs are axis 0, else (T, O)."""
    places = codes.long() - first.long()
    flat = places.flatten(1)
    return table.gather(1 - axis, flat).reshape(codes.shape)


@translated_by(lookup, lambda codes, *_: torch.empty_like(codes, dtype=torch.float32))
def _lookup(codes: Any, table: Any, first: Any, axis: int) -> Any:
    places = op.Sub(to_int32(codes), first)
    if len(codes.shape) == 2:
        return op.GatherElements(table, places, axis=1 - axis)
    flat = op.GatherElements(table, op.Flatten(places, axis=1), axis=1)
    return op.Reshape(flat, op.Constant(value_ints=list(codes.shape)))


def codes_and_table(quantizer: Quantizer, codes: Tensor, unsigned: bool) -> Codes:
    """Return codes as the file holds them, the values of all codes of each output, and the first code."""
    qmax = quantizer.format.qmax
    every = torch.arange(qmax + 1, dtype=torch.float32).expand(*quantizer.base_shape(codes.shape)[:-1], -1)
    values = quantizer.codec.dequantize(every, qmax, quantizer.parameters_dict())
    held, middle = carried(codes, quantizer.format.bits, unsigned)
    table = values.reshape(-1, qmax + 1).expand(len(codes), -1)
    return held, {"table": table, "first": torch.tensor(-middle).int()}


def without_table(quantizer: Quantizer) -> str:
    """Refuse tables for groups of inputs, and for the outputs of a transposed convolution, which come second."""
    if quantizer.axis in (None, 0) and not quantizer.format.granularity.size:
        return ""
    return (
        f"'{quantizer.format.name}' is written for weights whose outputs come first, per channel or tensor; take affine"
    )


def for_weights_alone(quantizer: Quantizer) -> str:
    """Refuse activations, whose codes are made anew for each image."""
    return f"'{quantizer.format.name}' is a format of weights alone; take affine for activations"


TABLE = WeightLowering("lookup", codes_and_table, refuses=without_table)


@register_lowering("codebook", "lookup", weight=TABLE, refuses=for_weights_alone)
@register_lowering("pwlq", "lookup", weight=TABLE, refuses=for_weights_alone)
@register_lowering("subset", "lookup", weight=TABLE, refuses=for_weights_alone)
def codebook(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Refuse activations: plans do so first."""
    raise ExportError(f"site '{quantizer.site}': {for_weights_alone(quantizer)}")

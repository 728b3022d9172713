"""Weights of a codebook: codes look values up in tables, which a runtime does once, when it loads the file."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, Codes, WeightLowering, register_lowering
from vitq.export.operators import TRANSLATIONS, op, to_int32
from vitq.quantizers import Quantizer


@torch.library.custom_op("vitq::lookup", mutates_args=())
def lookup(codes: Tensor, table: Tensor, first: Tensor, axis: int) -> Tensor:
    """Return the values of codes from ``first`` on; the table is (O, T) where outputs are axis 0, else (T, O)."""
    places = codes.long() - first.long()
    flat = places.flatten(1)
    return table.gather(1 - axis, flat).reshape(codes.shape)


def _lookup(codes: Any, table: Any, first: Any, axis: int) -> Any:
    places = op.Sub(to_int32(codes), first)
    if len(codes.shape) == 2:
        return op.GatherElements(table, places, axis=1 - axis)
    flat = op.GatherElements(table, op.Flatten(places, axis=1), axis=1)
    return op.Reshape(flat, op.Constant(value_ints=list(codes.shape)))


TRANSLATIONS[lookup._opoverload] = _lookup
lookup.register_fake(lambda codes, *_: torch.empty_like(codes, dtype=torch.float32))


def codes_and_table(quantizer: Quantizer, codes: Tensor, unsigned: bool) -> Codes:
    """Return codes, offset to be int8 or as they are, the table of each output, and the first code."""
    table = quantizer.parameters_dict()["table"]
    middle, carrier = (0, torch.uint8) if unsigned else (2 ** (quantizer.format.bits - 1), torch.int8)
    held = table.reshape(-1, table.shape[-1]).expand(len(codes), -1)
    return (codes.to(torch.int16) - middle).to(carrier), {"table": held, "first": torch.tensor(-middle).int()}


def transposed(quantizer: Quantizer) -> str:
    """Refuse tables for groups of inputs, and for the outputs of a transposed convolution, which come second."""
    if quantizer.axis in (None, 0) and not quantizer.format.granularity.size:
        return ""
    return (
        f"'{quantizer.format.name}' is written for weights whose outputs come first, per channel or tensor; take affine"
    )


@register_lowering("codebook", "lookup", weight=WeightLowering("lookup", codes_and_table, refuses=transposed))
def codebook(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Activations have no codebook: plans refuse them."""
    raise NotImplementedError

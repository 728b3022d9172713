"""Weights whose codes are looked up in a table of all values, made from what a format stores instead of one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vitq.export.lowerings.codebook import transposed
from vitq.export.lowerings.lowering import Arguments, Codes, WeightLowering, register_lowering
from vitq.quantizers import Quantizer


def codes_and_values(quantizer: Quantizer, codes: Tensor, unsigned: bool) -> Codes:
    """Return codes, offset to be int8 or as they are, the values of all codes of each output, and the first code."""
    qmax, parameters = quantizer.format.qmax, quantizer.parameters_dict()
    every = torch.arange(qmax + 1, dtype=torch.float32).expand(*parameters["scale"].shape[:-1], -1)
    values = quantizer.codec.dequantize(every, qmax, parameters).reshape(-1, qmax + 1).expand(len(codes), -1)
    middle, carrier = (0, torch.uint8) if unsigned else ((qmax + 1) // 2, torch.int8)
    return (codes.to(torch.int16) - middle).to(carrier), {"table": values, "first": torch.tensor(-middle).int()}


WRITTEN = WeightLowering("lookup", codes_and_values, refuses=transposed)


@register_lowering("pwlq", "lookup", weight=WRITTEN)
@register_lowering("subset", "lookup", weight=WRITTEN)
def table_of_weights(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Activations have no such table: plans refuse them."""
    raise NotImplementedError

"""Logarithmic codes: no runtime has a kernel for them, so a table of their values is looked up."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, register_lowering
from vitq.export.operators import number, op, to_int32, translated_by
from vitq.quantizers import Quantizer


@torch.library.custom_op("vitq::logarithm", mutates_args=())
def logarithm(x: Tensor, scale: Tensor, values: Tensor, octave: int) -> Tensor:
    """Look up the value of round(-octave log2(x / scale)), one of the codes of ``values``; zero has the last one."""
    codes = (x / scale).clamp(min=0).log2().mul(-octave).round().clamp(0, len(values) - 1)
    return values[codes.long()] * scale


@translated_by(logarithm)
def _logarithm(x: Any, scale: Any, values: Any, octave: int) -> Any:
    """Values are looked up: powers would be slower in OpenVINO, and Exp inexact. Zero has an infinite logarithm."""
    zero, last = number(0.0), number(values.shape[0] - 1)
    octaves = op.Mul(op.Log(op.Max(op.Div(x, scale), zero)), number(-octave / math.log(2)))
    codes = to_int32(op.Clip(op.Round(octaves), zero, last))
    return op.Mul(op.Gather(values, codes), scale)


def table(quantizer: Quantizer, parameters: Mapping[str, Tensor], octave: int) -> Arguments:
    """Return scale, the values of all codes at scale 1, and how many codes an octave has."""
    qmax = quantizer.format.qmax
    codes = torch.arange(qmax + 1, dtype=torch.float32)
    return parameters["scale"], quantizer.codec.dequantize(codes, qmax, {"scale": torch.ones(())}), octave


@register_lowering("log2", "logarithm")
@register_lowering("log2_flush", "logarithm")
def octaves(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return the table of a format with a code for each octave."""
    return table(quantizer, parameters, 1)


@register_lowering("log_sqrt2", "logarithm")
def half_octaves(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return the table of a format with two codes for each octave."""
    return table(quantizer, parameters, 2)

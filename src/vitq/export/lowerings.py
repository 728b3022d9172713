"""How each number format is written for a runtime: an operation of vitq's and its arguments, by the format's name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from vitq.errors import ExportError
from vitq.quantizers import Quantizer
from vitq.registry import Registry

Arguments = tuple[torch.Tensor | int | bool, ...]
Arguing = Callable[[Quantizer, Mapping[str, torch.Tensor]], Arguments]
"""A function from a calibrated quantizer and its parameters to what its operation takes behind x."""

ArguingType = TypeVar("ArguingType", bound=Arguing)


@dataclass(frozen=True)
class Lowering:
    """``operation`` of ``torch.ops.vitq`` (or "namespace::name" of another), called with x and ``arguments``.

    ``floating``: instead of it where parameters differ from part to part, or codes must not be integers in the file;
    ``signed``: where codes are int8. Without them, the same everywhere.
    """

    operation: str
    arguments: Arguing
    floating: "Lowering | None" = None
    signed: "Lowering | None" = None


LOWERINGS: Registry[Lowering] = Registry("lowering", Lowering, error=ExportError)


def register_lowering(
    format: str, operation: str, *, floating: Lowering | None = None, signed: Lowering | None = None
) -> Callable[[ArguingType], ArguingType]:
    """Register the function that gives the arguments of ``operation`` for a format; ExportError where it has one."""
    return LOWERINGS.register(format, lambda arguments: Lowering(operation, arguments, floating, signed))


def affine_signed(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor]) -> Arguments:
    """Return scale, zero point 0 of int8, and both ends."""
    scale, _, low, high = affine(quantizer, parameters)
    return scale, torch.zeros((), dtype=torch.int8), low, high


def affine_float(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor]) -> Arguments:
    """Return scale, zero point and the last code, of broadcast shapes."""
    return parameters["scale"], parameters["zero_point"].round(), quantizer.format.qmax


@register_lowering(
    "affine", "affine", floating=Lowering("affine_float", affine_float), signed=Lowering("affine", affine_signed)
)
def affine(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return scale, zero point of uint8, and both ends."""
    scale, zero = parameters["scale"], parameters["zero_point"].round()
    return scale, zero.to(torch.uint8), -zero * scale, (quantizer.format.qmax - zero) * scale


def piecewise(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor]) -> Arguments:
    """Return scale, zero point of uint8 and the last code."""
    zero = parameters["zero_point"].round().to(torch.uint8)
    return parameters["scale"], zero, quantizer.format.qmax


register_lowering("piecewise", "piecewise", floating=Lowering("piecewise_float", piecewise))(piecewise)


def table(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor], octave: int) -> Arguments:
    """Return scale, the values of all codes at scale 1, and how many codes an octave has."""
    qmax = quantizer.format.qmax
    codes = torch.arange(qmax + 1, dtype=torch.float32)
    return parameters["scale"], quantizer.kernel.values(codes, qmax, torch.ones(()), None), octave


@register_lowering("log2", "logarithm")
@register_lowering("log2_flush", "logarithm")
def octaves(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor]) -> Arguments:
    """Return the table of a format with a code for each octave."""
    return table(quantizer, parameters, 1)


@register_lowering("log_sqrt2", "logarithm")
def half_octaves(quantizer: Quantizer, parameters: Mapping[str, torch.Tensor]) -> Arguments:
    """Return the table of a format with two codes for each octave."""
    return table(quantizer, parameters, 2)

"""What a lowering is: how one number format is written for a runtime, registered by the format's name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from vitq.errors import ExportError
from vitq.quantizers import Quantizer
from vitq.registry import Registry

Arguments = tuple[torch.Tensor | int | bool, ...]
MakeArguments = Callable[[Quantizer, Mapping[str, torch.Tensor]], Arguments]
"""A function from a calibrated quantizer and its parameters to what its operation takes behind x."""

Codes = tuple[torch.Tensor, Mapping[str, torch.Tensor]]
"""Codes as the file holds them, and the tensors that turn them into values: one number each, or output by output."""

MakeArgumentsType = TypeVar("MakeArgumentsType", bound=MakeArguments)


def refuse_nothing(quantizer: Quantizer) -> str:
    """Refuse nothing."""
    return ""


@dataclass(frozen=True)
class WeightLowering:
    """``operation``, called with what ``codes`` returns and the axis of the outputs, gives a weight's values.

    ``codes`` takes a calibrated quantizer, its uint8 codes, and whether they must stay uint8 in the file, where they
    are int8 otherwise. ``refuses`` says in plain words why a quantizer cannot be written, nothing where it can.
    """

    operation: str
    codes: Callable[[Quantizer, torch.Tensor, bool], Codes]
    refuses: Callable[[Quantizer], str] = refuse_nothing


@dataclass(frozen=True)
class Lowering:
    """``operation`` of ``torch.ops.vitq`` (or "namespace::name" of another), called with x and ``arguments``.

    ``floating``: instead of it where parameters differ from part to part, or codes must not be integers in the file;
    ``signed``: where codes are int8. Without them, the same everywhere. ``weight``: how weights are written, None
    where they are not. ``refuses`` says why an activation's quantizer cannot be written, nothing where it can.
    """

    operation: str
    arguments: MakeArguments
    floating: "Lowering | None" = None
    signed: "Lowering | None" = None
    weight: WeightLowering | None = None
    refuses: Callable[[Quantizer], str] = refuse_nothing


LOWERINGS: Registry[Lowering] = Registry("lowering", Lowering, error=ExportError)


def register_lowering(
    format: str,
    operation: str,
    *,
    floating: Lowering | None = None,
    signed: Lowering | None = None,
    weight: WeightLowering | None = None,
    refuses: Callable[[Quantizer], str] = refuse_nothing,
) -> Callable[[MakeArgumentsType], MakeArgumentsType]:
    """Register the function that gives the arguments of ``operation`` for a format; ExportError where it has one."""

    def made(arguments: MakeArguments) -> Lowering:
        return Lowering(operation, arguments, floating, signed, weight, refuses)

    return LOWERINGS.register(format, made)


def carried(codes: torch.Tensor, bits: int, unsigned: bool) -> tuple[torch.Tensor, int]:
    """Return uint8 codes of ``bits`` as the file holds them, and which code is 0 there: int8, or as they are."""
    middle, carrier = (0, torch.uint8) if unsigned else (2 ** (bits - 1), torch.int8)
    return (codes.to(torch.int16) - middle).to(carrier), middle


def refusal(quantizer: Quantizer, is_weight: bool) -> str:
    """Return why no file can hold what a quantizer gives; nothing where one can."""
    name = quantizer.format.name
    if name not in LOWERINGS:
        return f"format '{name}' has no lowering"
    lowering = LOWERINGS[name]
    if not is_weight:
        return next((reason for part in quantizer.parts if (reason := lowering.refuses(part))), "")
    if lowering.weight is None:
        return f"weights of format '{name}' have no integer codes of one scale"
    return lowering.weight.refuses(quantizer)


def operation_of(name: str) -> Callable[..., Any]:
    """Return a torch custom operation by the name that a lowering gives it."""
    namespace, _, operation = name.rpartition("::")
    found: Callable[..., Any] = getattr(getattr(torch.ops, namespace or "vitq"), operation).default
    return found

"""Piecewise linear quantization of weights (PWLQ, ECCV 2020, arXiv 2002.00104): a fine middle and coarse tails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.errors import RecipeError
from vitq.quantizers.codec import SCALE, Codec, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import clamp_scale


@register_format("pwlq")
@dataclass(frozen=True)
class Pwlq(Codec):
    """Half of the codes are s apart from -p to p, a quarter on either side ``ratio`` * s up to the largest value.

    The regions do not overlap, as in the paper's default; p is searched. There the region takes a bit of its own, and
    both hold 0; that all regions share 2^b distinct values, symmetric about 0, is vitq's choice.
    """

    lowering: ClassVar[str] = "a table of all values by the codes: small in the file, floating point in a runtime"
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, Parameter("ratio", positive=True))
    weights_only: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Sequence[float]]] = {
        "ratio": (1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8, 3.4, 4.0, 5.0, 7.0, 10.0)
    }

    def check(self, format: Format) -> None:
        """It is symmetric by itself."""
        if format.symmetric:
            raise RecipeError(f"format '{self.name}' is always symmetric; remove 'symmetric'")

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the code of the nearest value."""
        steps, knee = x / clamp_scale(p["scale"]), breakpoint_of(qmax)
        beyond = (steps.abs() - knee).clamp_(min=0.0)
        return torch.copysign(steps.abs() - beyond + beyond / p["ratio"], steps).add_(qmax / 2).round_()

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the steps from the middle, ``ratio`` times longer beyond the breakpoint."""
        places = codes - qmax / 2
        beyond = (places.abs() - breakpoint_of(qmax)).clamp_(min=0.0)
        return torch.copysign(places.abs() - beyond + beyond * p["ratio"], places).mul_(clamp_scale(p["scale"]))

    def choose_qparams(
        self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True, ratio: Any = 2.0
    ) -> Parameters:
        """Return the scale that makes the larger end the last value."""
        largest = torch.maximum(-low, high).double()
        wanted = torch.zeros_like(largest) + ratio
        knee = breakpoint_of(format.qmax)
        scale = clamp_scale(largest / (knee + (format.qmax / 2 - knee) * wanted)).float()
        return {"scale": scale, "ratio": wanted.float()}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the lowest and the largest value."""
        return self.value_range(format.qmax, p)

    def one_sided(self, format: Format) -> bool:
        """The ends mirror one another."""
        return True

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the step of the middle or of the tails."""
        inner = x.abs() <= breakpoint_of(qmax) * p["scale"]
        return torch.where(inner, p["scale"], p["scale"] * p["ratio"])


def breakpoint_of(qmax: int) -> float:
    """Return p in steps: half of the codes lie within."""
    return (qmax + 1) / 4 - 0.5

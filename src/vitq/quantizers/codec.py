"""What a number format is: a codec, from values to integer codes and back, over named parameters of any shape.

A format is one subclass in one file, registered by ``register_format``. Its functions are pure, on float32 tensors;
codes are integers in float32 here. A parameter has the broadcast shape of the quantizer's axis and, behind it, its own
dimensions: a scale per channel of a weight is (O, 1), a table of 16 values per channel (O, 1, 16). So a codec
broadcasts parameters without own dimensions against x, and looks the others up along their last ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, cast

import torch

from vitq.errors import RecipeError
from vitq.quantizers.format import Format
from vitq.quantizers.scales import clamp_scale, total

Parameters = Mapping[str, torch.Tensor]
"""A codec's parameters by name."""


@dataclass(frozen=True)
class Parameter:
    """A named parameter: what values it takes, its shape, and whether ``reconstruct`` may learn it.

    ``learnt``: "scale" as a part of its first value (``weight_scales``, ``activation_scales``), "codes" in codes
    (``zero_points``), "" never. ``own``: its dimensions behind the broadcast shape, from the bits. ``shared``: one for
    the whole tensor, whatever the granularity.
    """

    name: str
    positive: bool = False
    learnt: str = ""
    own: Callable[[int], tuple[int, ...]] = lambda bits: ()
    shared: bool = False


SCALE = Parameter("scale", positive=True, learnt="scale")
ZERO_POINT = Parameter("zero_point", learnt="codes")


@dataclass(frozen=True)
class IntegerView:
    """Values as scale * (code - zero_point), codes whole in [0, steps]: what an int8 kernel multiplies, if 8 bits hold.

    ``spread`` turns the format's own uint8 codes into these, uint8 where 8 bits hold them; scale and zero point have
    the broadcast shape. Only the reference executor takes a zero point that is not whole.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    steps: int
    spread: Callable[[torch.Tensor], torch.Tensor] = lambda codes: codes


@dataclass(frozen=True)
class Codec(ABC):
    """A number format under the ``name`` that recipes write; see the top of the file.

    ``signed``: it has codes for negative values. ``uniform``: every code is worth (code - zero_point) * scale, so that
    AdaRound may learn its rounding and ``transfer_scales`` move its scale and zero point. ``weights_only``: it is no
    format for activations, whose codes are made anew for each image. ``lowering`` says how it becomes integers.
    ``settings``: parameters that searches try beside a range, with their values; ``choose_qparams`` then takes each by
    its name, as a number or as a tensor (1, G).
    """

    name: str
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE,)
    signed: ClassVar[bool] = True
    uniform: ClassVar[bool] = False
    weights_only: ClassVar[bool] = False
    settings: ClassVar[Mapping[str, Sequence[float]]] = {}
    lowering: ClassVar[str]

    @abstractmethod
    def quantize(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return the codes of x, in a new tensor; the caller clamps them to [0, qmax]."""

    @abstractmethod
    def dequantize(self, codes: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return the values of codes, in a new tensor."""

    @abstractmethod
    def choose_qparams(
        self, format: Format, low: torch.Tensor, high: torch.Tensor, must_hold_zero: bool = True
    ) -> Parameters:
        """Return parameters for the ranges [low, high]; ``must_hold_zero`` False lets a range lie anywhere."""

    @abstractmethod
    def range_of(self, format: Format, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ranges [low, high] that parameters stand for, as ``choose_qparams`` takes them."""

    def candidates(
        self,
        format: Format,
        low_KG: torch.Tensor,
        high_KG: torch.Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return what a search tries for the ranges, in K candidates: parameters of each, with each of ``settings``.

        ``start``, (1, G, own), is what a local search improves: the ranges then keep its settings, and its own range
        is tried with all of them.
        """
        choose: Any = self.choose_qparams
        if not self.settings:
            return cast(Parameters, choose(format, low_KG, high_KG, must_hold_zero))
        ends = (low_KG, high_KG) if start is None else self.range_of(format, start)
        combined = [dict(zip(self.settings, values, strict=True)) for values in product(*self.settings.values())]
        tried = [choose(format, *ends, must_hold_zero, **settings) for settings in combined]
        if start is not None:
            kept = {name: start[name] for name in self.settings}
            tried.insert(0, choose(format, low_KG, high_KG, must_hold_zero, **kept))
        return {name: torch.cat([parameters[name] for parameters in tried]) for name in tried[0]}

    def fit(self, format: Format, values_GN: torch.Tensor, weights_GN: torch.Tensor) -> Parameters | None:
        """Return (1, G, own) fitted to weighted values, for a format that needs the data; None where a range is all."""
        return None

    def one_sided(self, format: Format) -> bool:
        """Whether one number describes a range."""
        return format.symmetric

    def check(self, format: Format) -> None:
        """Raise RecipeError for what this format cannot be; by default it cannot be symmetric."""
        if format.symmetric:
            reason = "is never symmetric" if self.signed else "has no sign"
            raise RecipeError(f"format '{self.name}' {reason}; remove 'symmetric'")

    def completed(self, format: Format, p: Parameters) -> Parameters:
        """Return parameters with those that the format fixes itself."""
        return p

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return the values as whole steps of one scale; None where there is no such scale."""
        return None

    def whole_steps(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return an integer view as wide as it takes: the reference executor multiplies it byte by byte."""
        return self.integer_view(format, p)

    def resolution(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return how far neighbouring values are apart at the values x, in a shape that broadcasts against x."""
        return p["scale"]

    def value_range(self, qmax: int, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the smallest and the largest value of any code, in the broadcast shape."""
        first = self.dequantize(torch.zeros_like(p["scale"]), qmax, p)
        last = self.dequantize(torch.full_like(p["scale"], qmax), qmax, p)
        return torch.minimum(first, last), torch.maximum(first, last)

    def gradients(
        self,
        through: torch.Tensor,
        x: torch.Tensor,
        codes: torch.Tensor,
        values: torch.Tensor,
        inside: torch.Tensor,
        qmax: int,
        p: Parameters,
    ) -> dict[str, torch.Tensor]:
        """Return the gradient of each parameter that has one, given that of the values.

        By default ``scale`` and ``zero_point`` by the laws at the top of kernels.py, which hold where values grow with
        the scale, and where one more zero point shifts the range down by one scale. The others have none.
        """
        if "scale" not in p:
            return {}
        scale, error = clamp_scale(p["scale"]), values - torch.where(inside, x, 0.0)
        found = {"scale": total(through * error, scale.shape) / scale}
        if "zero_point" in p:
            found["zero_point"] = -scale * total(torch.where(inside, 0.0, through), scale.shape)
        return found

"""The quantizer module that sits on a site."""

from typing import ClassVar

import torch
from torch import nn

from vitq.errors import CalibrationError, RecipeError, did_you_mean
from vitq.quantizers.drop import DropMask
from vitq.quantizers.format import Format, Granularity
from vitq.quantizers.granularity import parameter_shape
from vitq.quantizers.kernels import Kernel
from vitq.quantizers.simulation import fake_quantize


class Quantizer(nn.Module):
    """Quantizer of one site: ``forward`` simulates, ``encode`` gives the codes, ``decode`` reads them.

    ``forward(x) == decode(encode(x))`` bit for bit (float32, no drop mask); gradients are straight-through.
    ``axis``: axis of x with its own parameters (0 for weights, negative for activations), None per tensor;
    parameters are float32 at broadcast shape. ``drop``: QDrop mask, used only while gradients are enabled.
    ``site``: readable name, for messages.
    """

    kernel: ClassVar[Kernel]
    lowering: ClassVar[str]
    signed: ClassVar[bool] = True
    """Whether it has codes for negative values."""
    parameter_names: ClassVar[tuple[str, ...]] = ("scale",)

    @classmethod
    def steps(cls, bits: int) -> int:
        """Return how many scales lie between the lowest and the highest value of a format with a zero point."""
        raise NotImplementedError(f"{cls.__name__} has no zero point")

    @classmethod
    def from_range(
        cls, low: torch.Tensor, high: torch.Tensor, bits: int, symmetric: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point, in [0, 2^bits - 1], that cover [low, high] and hold 0."""
        raise NotImplementedError(f"{cls.__name__} has no zero point")

    def __init__(self, format: Format, axis: int | None = None) -> None:
        super().__init__()
        if axis is not None and axis > 0:
            raise RecipeError(
                f"format '{format}' with axis {axis}: give 0 for a weight, a negative axis for an activation"
            )
        if (axis is None) != (format.granularity is Granularity.TENSOR):
            raise RecipeError(f"format '{format}' with axis {axis}: only granularity 'tensor' goes with axis None")
        self.format = format
        self.axis = axis
        self.site = ""
        self.drop: DropMask | None = None
        for name in self.parameter_names:
            self.register_parameter(name, nn.Parameter(torch.empty(0), requires_grad=False))

    scale: nn.Parameter

    @property
    def calibrated(self) -> bool:
        """True once ``set_parameters`` was called."""
        return self.scale.numel() > 0

    @property
    def has_integer_values(self) -> bool:
        """True where x̂ is one scale times whole numbers of at most 8 bits, which is what an int8 kernel multiplies."""
        return self.axis is None and "zero_point" in self.parameter_names and self.steps(self.format.bits) <= 255

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return uint8 codes in 0..2^bits-1; CalibrationError without parameters or if x is not finite."""
        self._require_parameters_for(x)
        if x.numel() and not bool(torch.isfinite(torch.stack(x.aminmax())).all()):
            raise CalibrationError(f"{self._where}: NaN or infinity has no code; find where the model produces it")
        with torch.no_grad():
            codes = self.kernel.raw_codes(x.float(), self.format.qmax, *self._arguments())
            return codes.clamp_(0, self.format.qmax).to(torch.uint8)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the float32 values of uint8 codes."""
        self._require_calibrated()
        with torch.no_grad():
            return self.kernel.values(codes.float(), self.format.qmax, *self._arguments())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x̂ in the dtype of x; NaN stays NaN; CalibrationError without parameters."""
        self._require_parameters_for(x)
        mask = self.drop(x) if self.drop is not None and torch.is_grad_enabled() else None
        return fake_quantize(self.kernel, x, self.format.qmax, *self._arguments(), keep_mask=mask)

    def parameters_dict(self) -> dict[str, torch.Tensor]:
        """Return detached copies of the parameters by name: what an artifact stores."""
        self._require_calibrated()
        return {name: getattr(self, name).detach().clone() for name in self.parameter_names}

    def set_parameters(self, **tensors: torch.Tensor) -> None:
        """Set all parameters, at broadcast shape, in place where it stays; CalibrationError if unusable."""
        for name in tensors:
            if name not in self.parameter_names:
                hint = did_you_mean(name, self.parameter_names)
                raise CalibrationError(f"{self._where}: no parameter '{name}'{hint}")
        for name in self.parameter_names:
            if name not in tensors:
                names = ", ".join(self.parameter_names)
                raise CalibrationError(f"{self._where}: parameter '{name}' is missing; set {names}")
        values = {name: self._checked(name, tensor) for name, tensor in tensors.items()}
        if len({value.shape for value in values.values()}) > 1:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
            raise CalibrationError(f"{self._where}: parameters must have one shape, not {shapes}")
        for name, value in values.items():
            old: nn.Parameter = getattr(self, name)
            if old.shape == value.shape:
                with torch.no_grad():
                    old.copy_(value)
            else:
                setattr(self, name, nn.Parameter(value, requires_grad=old.requires_grad))

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        state = "calibrated" if self.calibrated else "not calibrated"
        return f"{self.site or 'no site'}, {self.format}, {state}"

    def _arguments(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.scale, getattr(self, "zero_point", None)

    @property
    def _where(self) -> str:
        return f"quantizer '{self.site or 'without a site'}' ({self.format})"

    def _require_calibrated(self) -> None:
        if not self.calibrated:
            raise CalibrationError(f"{self._where} has no parameters yet; calibrate first, or call set_parameters")

    def _require_parameters_for(self, x: torch.Tensor) -> None:
        self._require_calibrated()
        if self.axis == 0 and self.scale.ndim != x.ndim:
            raise CalibrationError(
                f"{self._where}: scale of shape {tuple(self.scale.shape)} for a weight of shape "
                f"{tuple(x.shape)}; set it as {parameter_shape(x.shape, 0)}"
            )

    def _checked(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        value = tensor.detach().to(device=self.scale.device, dtype=torch.float32).clone()
        if self.axis is None and value.numel() == 1:
            value = value.reshape(())
        dims = 0 if self.axis is None else -self.axis if self.axis < 0 else value.ndim
        fits = value.ndim == dims and all(size == 1 for size in value.shape[1:]) and value.numel() > 0
        if not fits or (self.axis is not None and value.ndim == 0):
            shape = tuple(tensor.shape)
            raise CalibrationError(f"{self._where}: {name} of shape {shape} does not broadcast along axis {self.axis}")
        if not bool(torch.isfinite(value).all()) or (name == "scale" and bool((value <= 0).any())):
            wanted = "finite and positive" if name == "scale" else "finite"
            raise CalibrationError(
                f"{self._where}: {name} is not {wanted}; look for NaN or a dead tensor in calibration"
            )
        return value

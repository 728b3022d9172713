"""The quantizer module that sits on a site: a codec with parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from vitq.errors import CalibrationError, RecipeError, did_you_mean
from vitq.quantizers import tokens
from vitq.quantizers.codec import Codec, IntegerView, Parameter
from vitq.quantizers.drop import DropMask
from vitq.quantizers.fitting import fitting
from vitq.quantizers.format import Format, Granularity
from vitq.quantizers.granularity import group_shape, parameter_shape
from vitq.quantizers.registry import FORMATS
from vitq.quantizers.scales import INTEGER_STEPS
from vitq.quantizers.simulation import fake_quantize


class Quantizer(nn.Module):
    """Quantizer of one site: ``forward`` simulates, ``encode`` gives the codes, ``decode`` reads them.

    ``forward(x) == decode(encode(x))`` bit for bit (float32, no drop mask); gradients are straight-through.
    ``axis``: axis of x with its own parameters (0 for weights, negative for activations), None per tensor;
    parameters are float32, of the broadcast shape and the codec's own dimensions behind it, and attributes by name.
    ``drop``: QDrop mask, used only while gradients are enabled. ``site``: readable name, for messages.
    ``places_P``: tokens of an activation that have parameters of their own, those of ``outliers``; None where all
    tokens share them.
    """

    def __init__(self, format: Format, axis: int | None = None) -> None:
        super().__init__()
        if axis is not None and axis > 0:
            raise RecipeError(
                f"format '{format}' with axis {axis}: give 0 for a weight, a negative axis for an activation"
            )
        if (axis is None) != (format.granularity == Granularity.TENSOR):
            raise RecipeError(f"format '{format}' with axis {axis}: only granularity 'tensor' goes with axis None")
        if format.granularity.size and axis != 0:
            raise RecipeError(f"format '{format}' with axis {axis}: groups are for weights, whose axis is 0")
        self.codec: Codec = FORMATS[format.name]
        self.codec.check(format)
        self.format = format
        self._size = format.granularity.size
        self.axis = axis
        self.site = ""
        self.drop: DropMask | None = None
        self.outliers: Quantizer | None = None
        self.register_buffer("places_P", None)
        self._last_place = 0
        self.parameter_names = tuple(parameter.name for parameter in self.codec.parameters)
        for name in self.parameter_names:
            self.register_parameter(name, nn.Parameter(torch.empty(0), requires_grad=False))

    places_P: torch.Tensor | None

    @property
    def calibrated(self) -> bool:
        """True once ``set_parameters`` was called, for both kinds of tokens where there are two."""
        return self._first.numel() > 0 and (self.outliers is None or self.outliers.calibrated)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._first.device

    def integer_view(self) -> IntegerView | None:
        """Return x̂ as scales times whole numbers of at most 8 bits, which is what an int8 kernel multiplies, or None.

        The scale has the broadcast shape: an operation says which of these it can take. Groups of inputs have a scale
        each inside one sum, so they have no such view, nor have tokens with parameters of their own (``parts``).
        """
        view = self._integer_view()
        return view if view is not None and view.steps <= INTEGER_STEPS else None

    def whole_steps(self) -> IntegerView | None:
        """Return x̂ as scales times whole numbers of any width, which the reference executor multiplies, or None."""
        return self.codec.whole_steps(self.format, self.arguments()) if self._has_one_sum else None

    @property
    def too_wide(self) -> bool:
        """True where x̂ is one scale times whole numbers that 8 bits do not hold."""
        view = self._integer_view() if self.axis is None else None
        return view is not None and view.steps > INTEGER_STEPS

    @property
    def has_integer_values(self) -> bool:
        """True where x̂ is one scale times whole numbers of at most 8 bits."""
        return self.axis is None and self.integer_view() is not None

    @property
    def parts(self) -> tuple["Quantizer", ...]:
        """The quantizers of both kinds of tokens, the ordinary ones first; itself where there is one kind."""
        if self.outliers is None:
            return (self,)
        ordinary = Quantizer(self.format, self.axis).to(self.device)
        ordinary.site = self.site
        ordinary.set_parameters(**self._stored())
        return ordinary, self.outliers

    @property
    def kinds(self) -> tuple[tuple[str, "Quantizer"], ...]:
        """The quantizers whose own parameters these are, by what stands before their names in paths: not copies."""
        return (("", self),) if self.outliers is None else (("", self), ("outliers.", self.outliers))

    def keep_apart(self, places_P: torch.Tensor) -> "Quantizer":
        """Give the tokens at ``places_P`` parameters of their own, and return their quantizer, which has none yet.

        Raises CalibrationError for what is no list of different places, and for weights and scales per token.
        """
        if self.axis in (0, tokens.AXIS) or self._size:
            raise CalibrationError(f"{self._where}: only an activation's tokens with common scales are kept apart")
        places = tokens.listed(places_P, self.device)
        if places is None:
            raise CalibrationError(f"{self._where}: places of tokens are {places_P.tolist()}; give each once, from 0")
        self.places_P, self.outliers = places, Quantizer(self.format, self.axis).to(self.device)
        self._last_place = int(places.max())
        self.outliers.site = self.site
        return self.outliers

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return uint8 codes in 0..2^bits-1; CalibrationError without parameters or if x is not finite."""
        self._require_parameters_for(x)
        if x.numel() and not bool(torch.isfinite(torch.stack(x.aminmax())).all()):
            raise CalibrationError(f"{self._where}: NaN or infinity has no code; find where the model produces it")
        with torch.no_grad():
            codes = self.codec.quantize(self.grouped(x).float(), self.format.qmax, self.arguments())
            return self._with_outliers(
                codes.clamp_(0, self.format.qmax).to(torch.uint8).reshape(x.shape), x, Quantizer.encode
            )

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the float32 values of uint8 codes."""
        self._require_calibrated()
        with torch.no_grad():
            values = self.codec.dequantize(self.grouped(codes).float(), self.format.qmax, self.arguments())
            return self._with_outliers(values.reshape(codes.shape), codes, Quantizer.decode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x̂ in the dtype of x; NaN stays NaN; CalibrationError without parameters."""
        self._require_parameters_for(x)
        rows = self.grouped(x)
        mask = self.drop(rows) if self.drop is not None and torch.is_grad_enabled() else None
        y = fake_quantize(self.codec, rows, self.format.qmax, self.arguments(), keep_mask=mask)
        return self._with_outliers(y if rows is x else y.reshape(x.shape), x, Quantizer.forward)

    def resolution(self, x: torch.Tensor) -> torch.Tensor:
        """Return how far neighbouring values are apart at the values x, in a shape that broadcasts against x."""
        self._require_parameters_for(x)
        with torch.no_grad():
            rows = self.grouped(x)
            found = self.codec.resolution(rows, self.format.qmax, self.arguments())
            if self.outliers is not None:
                found = found.expand_as(x)
            return self._with_outliers(
                found if rows is x else found.expand_as(rows).reshape(x.shape),
                x,
                lambda own, part: own.resolution(part).expand_as(part),
            )

    def grouped(self, x: torch.Tensor) -> torch.Tensor:
        """Return x as the codec sees it: a row for each group of a weight, x itself at any other granularity."""
        size = self._size
        if not size:
            return x
        outputs, groups, _ = group_shape(x.shape, size)
        return x.reshape(outputs * groups, size)

    def arguments(self) -> dict[str, torch.Tensor]:
        """Return the parameters as they broadcast against ``grouped`` values; gradients go through them."""
        if not self._size:
            return self._stored()
        bits, held = self.format.bits, self._stored()
        rows = [p for p in self.codec.parameters if not p.shared]
        return {**held, **{p.name: held[p.name].reshape(-1, 1, *p.own(bits)) for p in rows}}

    def parameters_dict(self) -> dict[str, torch.Tensor]:
        """Return detached copies of the parameters by name: what an artifact stores."""
        self._require_calibrated()
        found = {name: parameter.detach().clone() for name, parameter in self._stored().items()}
        if self.outliers is None or self.places_P is None:
            return found
        own = {f"{tokens.PREFIX}{name}": t for name, t in self.outliers.parameters_dict().items()}
        return {**found, **own, tokens.PLACES: self.places_P.clone()}

    def set_parameters(self, **tensors: torch.Tensor) -> None:
        """Set all parameters, at their shapes, in place where these stay; CalibrationError if unusable.

        Those of tokens that are kept apart stay where none are given for them.
        """
        own, apart, places_P = tokens.split(tensors)
        if len(own) < len(tensors):
            self._set_apart(places_P, apart)
        given = self.codec.completed(self.format, own)
        for name in given:
            if name not in self.parameter_names:
                hint = did_you_mean(name, self.parameter_names)
                raise CalibrationError(f"{self._where}: no parameter '{name}'{hint}")
        for name in self.parameter_names:
            if name not in given:
                names = ", ".join(self.parameter_names)
                raise CalibrationError(f"{self._where}: parameter '{name}' is missing; set {names}")
        values = {
            p.name: fitting(given[p.name].detach().to(self.device), p, self.format, self.axis, self._where)
            for p in self.codec.parameters
        }
        spread = [p for p in self.codec.parameters if not p.shared]
        if len({values[p.name].shape[: values[p.name].ndim - len(p.own(self.format.bits))] for p in spread}) > 1:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
            raise CalibrationError(f"{self._where}: parameters must have one shape, not {shapes}")
        for name, value in values.items():
            old: nn.Parameter = getattr(self, name)
            if old.shape == value.shape:
                with torch.no_grad():
                    old.copy_(value)
            else:
                setattr(self, name, nn.Parameter(value, requires_grad=old.requires_grad))

    def _set_apart(self, places_P: torch.Tensor, parameters: dict[str, torch.Tensor]) -> None:
        if any(name.startswith(tokens.PREFIX) for name in parameters):
            raise CalibrationError(f"{self._where}: tokens that are kept apart have none kept apart among them")
        same = self.places_P is not None and torch.equal(self.places_P.cpu(), places_P.cpu())
        outliers = self.outliers if same and self.outliers is not None else self.keep_apart(places_P)
        outliers.set_parameters(**parameters)

    def shape_of(self, parameter: Parameter, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a parameter has for a tensor of ``shape``."""
        base = () if parameter.shared else self.base_shape(shape)
        return (*base, *parameter.own(self.format.bits))

    def base_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a parameter without own dimensions for a tensor of ``shape``."""
        size = self._size
        return group_shape(shape, size) if size else parameter_shape(shape, self.axis)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        state = "calibrated" if self.calibrated else "not calibrated"
        return f"{self.site or 'no site'}, {self.format}, {state}"

    def _with_outliers(
        self, y: torch.Tensor, x: torch.Tensor, of: Callable[["Quantizer", torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return ``y`` with what the outliers' quantizer makes of their tokens of ``x``."""
        if self.outliers is None or self.places_P is None:
            return y
        if x.ndim < 2 or self._last_place >= x.shape[tokens.AXIS]:
            raise CalibrationError(
                f"{self._where}: tokens {self.places_P.tolist()} have ranges of their own, and a tensor of shape "
                f"{tuple(x.shape)} has not so many"
            )
        return tokens.put(y, self.places_P, of(self.outliers, tokens.picked(x, self.places_P)))

    def _integer_view(self) -> IntegerView | None:
        return self.codec.integer_view(self.format, self.arguments()) if self._has_one_sum else None

    @property
    def _has_one_sum(self) -> bool:
        """Whether a product with x̂ is one sum of whole numbers: groups and two kinds of tokens make several."""
        return self.calibrated and not self._size and self.outliers is None

    @property
    def _first(self) -> nn.Parameter:
        return self.get_parameter(self.parameter_names[0])

    def _stored(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in self.parameter_names}

    @property
    def _where(self) -> str:
        return f"quantizer '{self.site or 'without a site'}' ({self.format})"

    def _require_calibrated(self) -> None:
        if not self.calibrated:
            raise CalibrationError(f"{self._where} has no parameters yet; calibrate first, or call set_parameters")

    def _require_parameters_for(self, x: torch.Tensor) -> None:
        self._require_calibrated()
        if self.axis != 0:
            return
        for parameter in self.codec.parameters:
            found = getattr(self, parameter.name).shape
            grouped, base = bool(self._size), len(found) - len(parameter.own(self.format.bits))
            fits = found == self.shape_of(parameter, tuple(x.shape)) if grouped else base == x.ndim
            if not parameter.shared and not fits:
                raise CalibrationError(
                    f"{self._where}: {parameter.name} of shape {tuple(found)} for a weight of shape "
                    f"{tuple(x.shape)}; set it as {self.shape_of(parameter, tuple(x.shape))}"
                )


def make_quantizer(format: Format, axis: int | None = None) -> Quantizer:
    """Return a fresh, uncalibrated quantizer; RecipeError if the format's name is not registered."""
    return Quantizer(format, axis)

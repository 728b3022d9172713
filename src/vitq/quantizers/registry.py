"""Which formats there are: quantizer classes by the name that a recipe writes."""

from collections.abc import Callable
from typing import TypeVar

from vitq.errors import RecipeError, did_you_mean
from vitq.quantizers.base import Quantizer
from vitq.quantizers.format import Format

QuantizerType = TypeVar("QuantizerType", bound=type[Quantizer])
FORMATS: dict[str, type[Quantizer]] = {}


def register_format(name: str) -> Callable[[QuantizerType], QuantizerType]:
    """Register a quantizer class under the name that ``Format.name`` uses."""

    def register(cls: QuantizerType) -> QuantizerType:
        if name in FORMATS:
            raise RecipeError(f"format '{name}' is already registered by {FORMATS[name].__name__}; choose another name")
        FORMATS[name] = cls
        return cls

    return register


def make_quantizer(format: Format, axis: int | None = None) -> Quantizer:
    """Return a fresh, uncalibrated quantizer; RecipeError if the format's name is not registered."""
    if format.name not in FORMATS:
        raise RecipeError(f"number format '{format.name}' does not exist{did_you_mean(format.name, FORMATS)}")
    return FORMATS[format.name](format, axis)

"""Which formats there are: quantizer classes by the name that a recipe writes."""

from collections.abc import Callable
from typing import TypeVar

from vitq.quantizers.base import Quantizer
from vitq.quantizers.format import Format
from vitq.registry import Registry

QuantizerType = TypeVar("QuantizerType", bound=type[Quantizer])
FORMATS: Registry[type[Quantizer]] = Registry("number format", Quantizer)


def register_format(name: str) -> Callable[[QuantizerType], QuantizerType]:
    """Register a quantizer class under the name that ``Format.name`` uses; RecipeError where it is taken."""
    return FORMATS.register(name)


def make_quantizer(format: Format, axis: int | None = None) -> Quantizer:
    """Return a fresh, uncalibrated quantizer; RecipeError if the format's name is not registered."""
    return FORMATS[format.name](format, axis)

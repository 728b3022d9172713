"""Which formats there are: codecs by the name that a recipe writes."""

from collections.abc import Callable
from typing import TypeVar

from vitq.quantizers.codec import Codec
from vitq.registry import Registry

CodecType = TypeVar("CodecType", bound=type[Codec])
FORMATS: Registry[Codec] = Registry("number format", Codec)


def register_format(name: str) -> Callable[[CodecType], CodecType]:
    """Register a codec's class under the name that ``Format.name`` uses; RecipeError where it is taken."""
    return FORMATS.register(name, lambda codec: codec(name) if _is_codec(codec) else codec)


def _is_codec(defined: object) -> bool:
    return isinstance(defined, type) and issubclass(defined, Codec)

"""What a quantizer is, as a value: number format, bit-width, granularity. No tensors here."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from vitq.errors import RecipeError, did_you_mean


class Granularity(str):
    """How finely parameters are shared, as a recipe writes it; ValueError for what does not exist.

    One set for the tensor, one per channel, head or token, or, in weights, one for each ``size`` inputs of an output
    channel: "group(32)".
    """

    TENSOR: ClassVar["Granularity"]
    CHANNEL: ClassVar["Granularity"]
    HEAD: ClassVar["Granularity"]
    TOKEN: ClassVar["Granularity"]

    def __new__(cls, text: str) -> "Granularity":
        """Return the granularity that ``text`` names."""
        if not isinstance(text, str) or not (text in PLAIN or GROUP.fullmatch(text)):
            raise ValueError(f"granularity '{text}' does not exist{did_you_mean(str(text), (*PLAIN, 'group(32)'))}")
        return super().__new__(cls, text)

    @classmethod
    def group(cls, size: int) -> "Granularity":
        """Return groups of ``size`` inputs."""
        return cls(f"group({size})")

    @property
    def size(self) -> int:
        """Inputs that share parameters in a group; 0 for what has no groups."""
        found = GROUP.fullmatch(self)
        return int(found[1]) if found else 0

    @property
    def kind(self) -> str:
        """The word without the size."""
        return "group" if self.size else str(self)


PLAIN = ("tensor", "channel", "head", "token")
GROUP = re.compile(r"group\(([1-9][0-9]{0,8})\)")
GRANULARITIES = tuple(Granularity(name) for name in PLAIN)
Granularity.TENSOR, Granularity.CHANNEL, Granularity.HEAD, Granularity.TOKEN = GRANULARITIES


@dataclass(frozen=True)
class Format:
    """Number format of one site: name in the registry, 2 to 8 bits, granularity; RecipeError if not valid."""

    name: str = "affine"
    bits: int = 8
    granularity: Granularity = Granularity.TENSOR
    symmetric: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise RecipeError(f"format '{self.name}': {self.bits!r} bits; a quantizer has 2 to 8 bits")
        if not isinstance(self.symmetric, bool):
            raise RecipeError(f"format '{self.name}': symmetric is {self.symmetric!r}; write true or false")
        try:
            object.__setattr__(self, "granularity", Granularity(self.granularity))
        except ValueError as error:
            raise RecipeError(f"format '{self.name}': {error}") from error

    @property
    def qmax(self) -> int:
        """Largest code, 2^bits - 1."""
        return int(2**self.bits) - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_dict`` reads them back."""
        return {**asdict(self), "granularity": str(self.granularity)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Format":
        """Read ``to_dict``'s output; raise RecipeError for an unknown key or value."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise RecipeError(f"a format has no key '{key}'{did_you_mean(key, known)}")
        return cls(**values)

    def __str__(self) -> str:
        sign = " symmetric" if self.symmetric else ""
        return f"{self.name} {self.bits} bits per {self.granularity}{sign}"

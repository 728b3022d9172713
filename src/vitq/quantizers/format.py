"""What a quantizer is, as a value: number format, bit-width, granularity. No tensors here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from vitq.errors import RecipeError, did_you_mean


class Granularity(StrEnum):
    """How finely parameters are shared: one set for the tensor, or one per channel, head or token."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    HEAD = "head"
    TOKEN = "token"


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
        if self.granularity not in list(Granularity):
            hint = did_you_mean(str(self.granularity), list(Granularity))
            raise RecipeError(f"format '{self.name}': granularity '{self.granularity}' does not exist{hint}")
        object.__setattr__(self, "granularity", Granularity(self.granularity))

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

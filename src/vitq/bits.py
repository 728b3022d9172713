"""Bit-widths of weights and activations, parsed once at the edge."""

import re
from dataclasses import dataclass

from vitq.errors import RecipeError

FLOATING_POINT = 32


@dataclass(frozen=True)
class Bits:
    """Bit-width of weights and of activations: 2 to 8, or 32 for floating point."""

    weights: int
    activations: int

    def __post_init__(self) -> None:
        for name, bits in (("weights", self.weights), ("activations", self.activations)):
            if isinstance(bits, bool) or not isinstance(bits, int) or not (2 <= bits <= 8 or bits == FLOATING_POINT):
                raise RecipeError(f"{name}: {bits!r} bits; vitq quantizes to 2 to 8 bits, 32 leaves floating point")

    @classmethod
    def parse(cls, text: str) -> "Bits":
        """Read ``"w4a8"``; raise RecipeError for anything else."""
        match = re.fullmatch(r"w([0-9]{1,3})a([0-9]{1,3})", text.strip().lower())
        if match is None:
            raise RecipeError(f"bits '{text[:40]}' not understood; write for example w4a4, w8a8 or w4a8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"

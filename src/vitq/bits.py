"""Bit-widths of weights and activations, parsed once at the edge."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from vitq.errors import RecipeError

FLOATING_POINT = 32
MIXED = "mixed"
"""Name of bits that differ from site to site, before their averages are known."""


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


@dataclass(frozen=True)
class BitTable:
    """Bits by globs over site names, the last match wins; sites that none names get ``base``.

    Rewrites that depend on bits take those of ``base``. ``name`` is for messages. A site's bits are 2 to 8, or 32.
    """

    base: Bits
    sites: Mapping[str, int] = field(default_factory=dict)
    name: str = "bits"

    def __post_init__(self) -> None:
        for pattern, bits in self.sites.items():
            if not isinstance(pattern, str) or isinstance(bits, bool) or not isinstance(bits, int):
                given = f"'{str(pattern)[:80]}': {str(bits)[:80]}"
                raise RecipeError(f"{self.name}: {given}; write a glob and a whole number of bits")
            if not (2 <= bits <= 8 or bits == FLOATING_POINT):
                raise RecipeError(f"{self.name}: '{pattern[:80]}': {bits} bits; 2 to 8, 32 leaves floating point")

    def bits_of(self, site: str) -> int | None:
        """Return the bits of the last glob that matches, None where none does."""
        found = [bits for pattern, bits in self.sites.items() if fnmatchcase(site, pattern)]
        return found[-1] if found else None


@dataclass(frozen=True)
class AverageBits:
    """Largest average bits of weights and of activations; None sets no limit."""

    weights: float | None
    activations: float | None

    @classmethod
    def parse(cls, text: str) -> "AverageBits":
        """Read ``"4.5"`` (both), ``"w3a4.5"``, ``"w3"`` or ``"a4.5"``; raise RecipeError for anything else."""
        number = r"([0-9]{1,2}(?:\.[0-9]{1,6})?)"
        written = text.strip().lower()
        if both := re.fullmatch(number, written):
            found: tuple[str | None, str | None] = (both[1], both[1])
        elif (each := re.fullmatch(f"(?:w{number})?(?:a{number})?", written)) and written:
            found = (each[1], each[2])
        else:
            raise RecipeError(f"average bits '{text[:40]}' not understood; write for example 4.5, w3a4.5, w3 or a6")
        return cls(*(None if part is None else float(part) for part in found))


def mixed_label(weights: float | None, activations: float | None) -> str:
    """Return a short name of mixed bits by their averages: ``mixed w4.5a4``; what is None has none."""
    parts = (("w", weights), ("a", activations))
    return f"{MIXED} " + "".join(f"{kind}{average:.3g}" for kind, average in parts if average is not None)

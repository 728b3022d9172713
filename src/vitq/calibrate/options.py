"""The options of step ``insert``: which format the sites of each role get, and which sites are exceptions."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from vitq.bits import FLOATING_POINT
from vitq.quantizers import FORMATS, Format, Granularity

GranularityOption = Annotated[Granularity, PlainValidator(Granularity), PlainSerializer(lambda value: str(value))]
"""A granularity as text; pydantic 2.7 takes no bare ``str`` there."""


class SiteFormat(BaseModel):
    """Number format of the sites of one role; its bits come from the run.

    ``from_bits`` names other formats for more bits ({6: piecewise, 7: affine}): more bits widen a logarithm's range
    but never its step of a factor 2, and what beats affine codes at few bits gains little at eight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "affine"
    from_bits: dict[int, str] = Field(default_factory=dict)
    granularity: GranularityOption = Granularity.TENSOR
    symmetric: bool = False

    @field_validator("format", "from_bits")
    @classmethod
    def _known(cls, names: str | dict[int, str]) -> str | dict[int, str]:
        for name in [names] if isinstance(names, str) else names.values():
            FORMATS.option(name)
        return names

    def at(self, bits: int, granularity: Granularity) -> Format:
        """Return the format with ``bits``, at the granularity that the site's tensor allows."""
        names = {0: self.format, **self.from_bits}
        return Format(names[max(least for least in names if least <= bits)], bits, granularity, self.symmetric)


class SiteBits(BaseModel):
    """Bits of the sites that a glob names; 32 leaves them in floating point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(ge=2, le=FLOATING_POINT)

    @field_validator("bits")
    @classmethod
    def _width(cls, bits: int) -> int:
        if not (bits <= 8 or bits == FLOATING_POINT):
            raise ValueError("a quantizer has 2 to 8 bits; 32 leaves floating point")
        return bits

"""What ``report.json`` holds beside an artifact: what its report shows that no other file tells; plain JSON.

It is no part of the artifact. A damaged one is noticed when it is read, and pictures are nothing but pictures.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EVIDENCE = "report.json"

Hits = Annotated[str, Field(pattern=r"^[01]*$")]
"""One letter an image: 1 where it is so."""

JPEG = Annotated[str, Field(pattern=r"^data:image/jpeg;base64,[A-Za-z0-9+/=]+$", max_length=200_000)]
PNG = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/=]+$", max_length=200_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pairs(_Plain):
    """What both models say of the same images, in their order; hits are empty without labels.

    ``expected_loss`` is the loss of top-1 in percent if labels were distributed as floating point predicts, and
    ``expected_deviation`` its standard deviation over images. ``sha256`` is that of the images, so that runs can be
    compared image by image.
    """

    images: int = Field(gt=0)
    sha256: str
    agree: Hits
    floating: Hits = ""
    quantized: Hits = ""
    expected_loss: float
    expected_deviation: float


class SiteError(_Plain):
    """The squared error of one quantized tensor alone, relative to its energy, and where it is."""

    site: str
    role: str
    block: str
    bits: int
    format: str
    error: float


class Distribution(_Plain):
    """A histogram of the values of a site, of its worst slice where each has parameters of its own, and their grid."""

    site: str
    slice: str
    low: float
    high: float
    counts: tuple[int, ...]
    grid: tuple[float, ...]


class Prediction(_Plain):
    """The likeliest class and its probability."""

    label: str
    confidence: Share


class Picture(_Plain):
    """One image as both models see it; attention maps where the model has such that belong to places of the image."""

    image: JPEG
    truth: str | None
    floating: Prediction
    quantized: Prediction
    floating_attention: PNG | None = None
    quantized_attention: PNG | None = None

    @property
    def differs(self) -> bool:
        """Whether the models predict different classes."""
        return self.floating.label != self.quantized.label


class Evidence(_Plain):
    """Everything of one run; what could not be had is empty."""

    vitq: Literal["report"] = "report"
    version: Literal[1] = 1
    model: str = Field(default="", description="SHA-256 of the model.safetensors that this is about")
    pairs: Pairs | None = None
    sites: tuple[SiteError, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    pictures: tuple[Picture, ...] = ()
    attention: str = Field(default="", description="the site whose attention is shown")
    images: int = Field(default=0, description="calibration images behind the errors of sites")

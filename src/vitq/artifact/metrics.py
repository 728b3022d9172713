"""What a run measured: the content of ``metrics.json``, and of ``run.json`` what differs from run to run."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

COSTS = ("seconds", "peak_memory_bytes")
"""What differs from run to run: it stands in ``run.json``, which is no part of an artifact."""

LEFT_OUT = ("relative_error", "cosine", "fp_scores", "scores", "outputs", "whole", "outliers", "size_bytes", *COSTS)
"""Where these were not measured, their keys are missing; the others are null then."""

Text = InstanceOf[str]
"""Text as Python has it: names of files may hold bytes that no Unicode text has."""

Warned = Annotated[tuple[Text, Text], Field(strict=False)]
"""Name and message of a warning; a list in JSON."""


class RunMetrics(BaseModel):
    """Scores of a quantized model beside its original; None where there was nothing to measure.

    Raises ValidationError for a value of another type, and for a key that it does not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fp_images: int | None = Field(default=None, description="images that the original was measured on")
    fp_top1: float | None = Field(default=None, description="top-1 of the original, in percent; null without labels")
    fp_top5: float | None = Field(default=None, description="top-5 of the original, in percent; null without labels")
    fp_agreement: float | None = Field(
        default=None, description="always null: the original is what the other is compared with"
    )
    images: int = Field(description="images that the quantized model was measured on; 0 where measuring it failed")
    top1: float | None = Field(
        default=None, description="top-1 of the quantized model, in percent; that of its sign with one output"
    )
    top5: float | None = Field(
        default=None, description="top-5 of the quantized model, in percent; null with one output"
    )
    agreement: float | None = Field(
        default=None,
        description="percentage of images on which both predict the same class",
    )
    relative_error: float | None = Field(
        default=None,
        description="of outputs that are no classes: distance to the original's, relative to their size; of the worst",
    )
    cosine: float | None = Field(
        default=None,
        description="of outputs that are no classes: cosine between them and the original's; of the worst",
    )
    fp_scores: Mapping[str, float] | None = Field(
        default=None, description="what the original scores, by name, beside top-1 and top-5"
    )
    scores: Mapping[str, float] | None = Field(
        default=None,
        description="what the quantized model scores, by name, beside top-1 and top-5; also how it agrees with the "
        "original, where a task says more",
    )
    outputs: Mapping[str, Mapping[str, float]] | None = Field(
        default=None,
        description="of several outputs: `relative_error` and `cosine` of each that is no class, by its name",
    )
    whole: Mapping[str, Mapping[str, float]] | None = Field(
        default=None,
        description="of a part of a larger model: how near each output of the whole is to the original's",
    )
    outliers: tuple[Mapping[str, Any], ...] | None = Field(
        default=None,
        strict=False,
        description="massive tokens by site: their places, the channels that reach furthest, how far the first does "
        "and the median of its values, by how much the range shrinks without them, and whether they have one of their "
        "own",
    )
    segment_errors: Mapping[str, float] = Field(
        default={}, description="relative squared error behind each block, on calibration images not trained on"
    )
    mean_segment_error: float | None = Field(default=None, description="mean of `segment_errors`")
    fp_size_bytes: int | None = Field(default=None, description="bytes of the original's parameters and buffers")
    size_bytes: int | None = Field(
        default=None, description="bytes of the artifact's model on disk; only where it was saved"
    )
    warnings: tuple[Warned, ...] = Field(
        default=(), strict=False, description="name and message of each warning of the run"
    )
    seconds: float | None = Field(default=None, description="time of the run, in seconds")
    peak_memory_bytes: int | None = Field(default=None, description="peak memory of the run")

    def to_dict(self) -> dict[str, Any]:
        """Return the values as plain data, in the order above, without the keys of ``LEFT_OUT`` that have none."""
        pairs = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in pairs if value is not None or name not in LEFT_OUT}

    def without_costs(self) -> "RunMetrics":
        """Return what the same run gives again, byte for byte."""
        return self.model_copy(update=dict.fromkeys(COSTS))

    def costs(self) -> dict[str, Any]:
        """Return what differs from run to run."""
        return {name: value for name, value in self.to_dict().items() if name in COSTS}

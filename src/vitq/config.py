"""What an artifact says about itself: a schema-versioned, typed configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class SavedSite(BaseModel):
    """One quantized site: its number format, the axis with parameters of its own, and where its tensors are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    format: dict[str, Any]
    axis: int | None
    module: str
    weight: str | None = Field(None, description="path of the weight, whose codes are stored packed")
    shape: tuple[int, ...] | None = None


class ArtifactConfig(BaseModel):
    """Everything needed to say what a quantized model is and how it was made; plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    source: dict[str, Any]
    preprocessing: dict[str, Any]
    bits: str
    scope: str
    recipe: dict[str, Any]
    seed: int
    calibration: dict[str, Any]
    versions: dict[str, str]
    sites: dict[str, SavedSite]
    hashes: dict[str, str] = {}

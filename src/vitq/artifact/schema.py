"""What an artifact says about itself: a schema-versioned, typed configuration."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

SCHEMA_VERSION = 1


class SavedSite(BaseModel):
    """One quantized site: its number format, the axis with parameters of its own, and where its tensors are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    format: dict[str, Any]
    axis: int | None
    module: str
    weight: str | None = Field(None, description="path of the weight, whose codes are stored packed")
    shape: Annotated[tuple[PositiveInt, ...], Field(max_length=8)] | None = None


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
    task: str | None = Field(None, description="what the outputs mean, where it is not vitq's own choice")

    @model_serializer(mode="wrap")
    def _without_own_choice(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the task only where somebody else's is meant."""
        return {key: value for key, value in written(self).items() if key != "task" or value is not None}

    @field_validator("source")
    @classmethod
    def _whole_classes(cls, source: dict[str, Any]) -> dict[str, Any]:
        """Whoever measures a loaded model reads the number of classes here."""
        classes = source.get("num_classes")
        if classes is not None and (type(classes) is not int or classes < 1):
            raise ValueError(f"num_classes is {classes!r}; it has to be a whole number of at least 1, or null")
        return source

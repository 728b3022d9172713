"""The floating-point baseline: the model that an artifact was made of, in a file of its own."""

from typing import TYPE_CHECKING

import torch

from vitq.errors import ExportError
from vitq.export.build import build
from vitq.graph import capture
from vitq.models import LoadedModel, settle

if TYPE_CHECKING:
    from vitq.model import QuantizedModel


def baseline(floating: LoadedModel, model: "QuantizedModel", example_BCHW: torch.Tensor) -> bytes:
    """Return ``floating`` as a checked ONNX file; ExportError where ``model`` was made of other weights."""
    made_of, given = model.config.source.get("sha256"), floating.source["sha256"]
    if made_of != given:
        raise ExportError(
            f"'{floating.name}' has other weights ({given[:8]}) than the model that the artifact was made of "
            f"('{model.config.source.get('name')}', {str(made_of)[:8]}); give that model, with its --weights"
        )
    module = settle(floating, example_BCHW, lambda *_: None).module
    return build(capture(module, example_BCHW), {}, example_BCHW, {})

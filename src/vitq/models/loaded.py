"""A model that is ready to be quantized, and where it came from."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from vitq.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class LoadedModel:
    """A model of images, ``x_BCHW -> logits_BK`` or other outputs, in eval mode and float32 on the CPU, and how its
    images are prepared.

    ``source`` holds plain values for an artifact's configuration: ``kind`` (timm, huggingface, module),
    ``name``, ``weights`` (file, hub, folder, random, module), ``sha256`` of all parameters and buffers,
    ``file_sha256`` where they came from a file, and ``num_classes``. No path of this machine is kept, only a
    file's name.
    """

    module: nn.Module
    preprocessing: Preprocessing
    name: str
    source: dict[str, Any]
    num_classes: int | None = None
    task: str | None = None
    """What its outputs mean, by the name of a registered task; None is vitq's own choice."""
    meaning: str = ""
    """The task in words, once the model was run."""
    left_out: tuple[str, ...] = ()
    """Outputs of the model that are not kept."""

"""Which Hugging Face class a model is loaded as: by what it was saved as, or by the task that is asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from vitq.errors import ModelError

TOWERS = ("vision_model", "vision_tower", "vision_encoder", "visual")
"""Where models of pictures and words keep the part that sees."""

VARIANT = "With[A-Z][A-Za-z]*|ConvProcessing|Learned|Fourier"
"""What may follow a class's kind: ``CLIPVisionModelWithProjection``, ``DeiTForImageClassificationWithTeacher``."""


@dataclass(frozen=True)
class Head:
    """An ``Auto`` class of transformers, the ending of the classes that it loads, and what they are in words.

    Something about how they were trained or what is behind them may follow the ending (``VARIANT``).
    """

    auto: str
    ending: str
    words: str
    task: str

    def loads(self, saved: Any) -> bool:
        """Whether a class of this name is of this kind."""
        return isinstance(saved, str) and re.search(f"{self.ending}({VARIANT})?$", saved) is not None

    @property
    def has_classes(self) -> bool:
        """Whether the number of labels is the width of the logits."""
        return self.ending in ("ForImageClassification", "ForSemanticSegmentation")

    @property
    def may_squash(self) -> bool:
        """Whether pictures may be brought to one size where the model's own processor keeps their form."""
        return self.task in ("dense", "boxes")


HEADS = (
    Head("AutoModelForImageClassification", "ForImageClassification", "image classifier", "classes"),
    Head("AutoModelForSemanticSegmentation", "ForSemanticSegmentation", "segmenter", "dense"),
    Head("AutoModelForDepthEstimation", "ForDepthEstimation", "depth estimator", "dense"),
    Head("AutoModelForObjectDetection", "ForObjectDetection", "object detector", "boxes"),
    Head("AutoBackbone", "Backbone", "backbone", "features"),
    Head("AutoModel", "Model", "encoder", "features"),
)
SIDES = ("height", "shortest_edge", "longest_edge")
TASKS_OF_HEADS = {"boxes-sigmoid": "boxes"}


def head_for(config: Any, task: str | None, name: str) -> Head:
    """Return the head that ``task`` needs, else the one that the configuration names, else a classifier's.

    Raises ModelError for a class that is saved there and that vitq does not load.
    """
    saved = next(iter(getattr(config, "architectures", None) or ()), None)
    known = next((head for head in HEADS if head.loads(saved)), None)
    wanted = [head for head in HEADS if head.task == TASKS_OF_HEADS.get(task or "", task)]
    if known in wanted:
        return known
    if wanted:
        return wanted[-1] if wanted[0].task == "features" else wanted[0]
    if known is None and isinstance(saved, str) and "For" in saved:
        raise ModelError(
            f"'{name}' is a {saved}; vitq loads {', '.join(head.words for head in HEADS[:-1])} and encoder by name: "
            "give another one as a module, or quantize a part of it with vitq.quantize(model, images, inside=PATH)"
        )
    return known or HEADS[0]


def seeing_part(model: nn.Module) -> nn.Module:
    """Return the part of a model of pictures and words that sees; the model where it calls it otherwise."""
    return next((part for key in TOWERS if isinstance(part := getattr(model, key, None), nn.Module)), model)


def keeps_form(processor: Mapping[str, Any]) -> bool:
    """Whether an image processor leaves pictures in sizes of their own: it keeps their form and cuts nothing."""
    size = processor.get("size")
    edges = isinstance(size, Mapping) and any(size.get(key) for key in ("shortest_edge", "longest_edge"))
    return bool(processor.get("keep_aspect_ratio") or edges) and not processor.get("do_center_crop")


def squashed(processor: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return a processor's values with one size for all: the configuration's, else the processor's, else 640 x 640."""
    size = getattr(config, "image_size", None)
    given = processor.get("size")
    sides = given if isinstance(given, Mapping) else {}
    if isinstance(size, int):
        height = width = size
    elif isinstance(size, list | tuple) and len(size) == 2:
        height, width = int(size[0]), int(size[1])
    else:
        height = int(next((side for key in SIDES if (side := sides.get(key))), 640))
        width = int(sides.get("width") or height)
    return {**processor, "do_resize": True, "do_center_crop": False, "size": {"height": height, "width": width}}

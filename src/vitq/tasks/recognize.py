"""Which task a model certainly has, by what it says of itself and by the names that it gives its outputs."""

from collections.abc import Sequence

from torch import nn

from vitq.tasks.boxes import Boxes
from vitq.tasks.task import Shapes

MAPS = ("predicted_depth", "out")
"""Outputs of Hugging Face's depth models and of torchvision's segmenters."""
FEATURES = ("last_hidden_state", "pooler_output", "image_embeds", "feature_maps")
"""Outputs of Hugging Face's encoders, towers and backbones."""


def recognized(module: nn.Module, shapes: Shapes) -> str | None:
    """Return the name of the task of ``module``, whose outputs have ``shapes`` under its own names; None if unsure.

    Boxes by the names of DETR's outputs and the number of classes in the configuration; maps by ``MAPS``, or where
    what is called logits is a map; features where timm says that there is no head, or no output but ``FEATURES``.
    """
    if Boxes.fit(shapes) is not None and {"logits", "pred_boxes"} <= shapes.keys():
        return _boxes(shapes["logits"][-1], _labels(module))
    if any(len(shapes.get(name, ())) >= 2 for name in MAPS) or len(shapes.get("logits", ())) == 3:
        return "dense"
    if shapes and all(name.partition(".")[0] in FEATURES for name in shapes):
        return "features"
    return "features" if _is_headless(module) else None


def _boxes(columns: int, labels: int | None) -> str | None:
    return {0: "boxes-sigmoid", 1: "boxes"}.get(columns - labels) if labels is not None else None


def _labels(module: nn.Module) -> int | None:
    """Return how many classes a Hugging Face configuration names."""
    found = [getattr(getattr(part, "config", None), "num_labels", None) for part in _faces(module)]
    return next((count for count in found if isinstance(count, int)), None)


def _is_headless(module: nn.Module) -> bool:
    """Whether timm's model gives features: it has no classifier now, whatever it was made with, or gives maps."""
    return any(
        _has_no_classifier(part) if hasattr(part, "num_classes") else hasattr(part, "feature_info")
        for part in _faces(module)
    )


def _has_no_classifier(model: nn.Module) -> bool:
    """Whether what a model of timm calls its classifiers holds no weights; of others, whether it counts no classes."""
    find = getattr(model, "get_classifier", None)
    if not callable(find):
        return getattr(model, "num_classes", None) == 0
    found = find()
    heads = found if isinstance(found, tuple | list) else (found,)
    return not any(isinstance(head, nn.Module) and any(True for _ in head.parameters()) for head in heads)


def _faces(module: nn.Module) -> Sequence[nn.Module]:
    """Return the module and what vitq's own wrappers hold."""
    faces = [module]
    while type(faces[-1]).__module__.startswith("vitq.models") and isinstance(
        inner := getattr(faces[-1], "model", None), nn.Module
    ):
        faces.append(inner)
    return faces

"""Hugging Face image classifiers: by hub id or local folder, wrapped to take a tensor and give logits."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitq.errors import ModelError
from vitq.models.hub import hub
from vitq.models.loaded import LoadedModel
from vitq.models.preprocessing import Preprocessing
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import RANDOM_WEIGHTS_SEED, load_weights, seeded_weights

_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers, timm's words


class LogitsOf(nn.Module):
    """A Hugging Face classifier as a function ``x_BCHW -> logits_BK``; ``bgr`` swaps RGB for models trained
    on BGR.
    """

    def __init__(self, model: nn.Module, bgr: bool = False) -> None:
        super().__init__()
        self.model = model
        self.bgr = bgr

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        pixels_BCHW = x_BCHW.flip(1) if self.bgr else x_BCHW
        return cast(Tensor, self.model(pixel_values=pixels_BCHW, return_dict=True).logits)


def load_huggingface(name: str, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    """Load the classifier at a hub id or in a local folder with ``config.json``.

    Raises ModelError when transformers is missing, the model is no image classifier, or its head is
    untrained.
    """
    transformers = _transformers(name)
    local = Path(name).is_dir()
    changes = {} if num_classes is None else {"num_labels": num_classes}
    with seeded_weights(), hub(f"'{name}'" if local else f"'{name}' is no folder here and"):
        config = transformers.AutoConfig.from_pretrained(name, **(changes if weights is not None else {}))
        if weights is None:
            model, report = transformers.AutoModelForImageClassification.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True
            )
            _check_trained(name, report)
        else:
            model = transformers.AutoModelForImageClassification.from_config(config)
        processor = _processor(transformers, name)
    classes = int(config.num_labels)
    if num_classes is not None and classes != num_classes:
        raise ModelError(f"'{name}' has {classes} classes, not {num_classes}; pass weights=FILE for another head")

    source: dict[str, Any] = {"kind": "huggingface", "name": Path(name).name if local else name}
    source["weights"] = "folder" if local else "hub"
    if weights == "random":
        source |= {"weights": "random", "weights_seed": RANDOM_WEIGHTS_SEED}
    elif weights is not None:
        source |= load_weights(model, Path(weights))
    preprocessing = processor_preprocessing(processor) if processor else assumed_preprocessing(config)
    module = LogitsOf(model, bgr=bool(processor.get("do_flip_channel_order", False)))
    return LoadedModel(module, preprocessing, source["name"], source, classes)


def processor_preprocessing(processor: Mapping[str, Any]) -> Preprocessing:
    """Translate the values of a Hugging Face image processor; raise ModelError where they cannot be."""
    size, crop = _sides(processor.get("size")), _sides(processor.get("crop_size"))
    if size is None:
        raise ModelError(f"the image processor's size {processor.get('size')} is not understood; pass preprocessing=")
    shortest_edge = len(size) == 1
    cropped = bool(processor.get("do_center_crop")) and crop is not None
    target = crop if cropped and crop is not None else size
    height, width = target[0], target[-1]
    if cropped:
        crop_pct = _crop_pct(height, size[0])
    else:
        crop_pct = float(processor.get("crop_pct") or 1.0) if shortest_edge else 1.0
    mean, std = _normalisation(processor)
    return Preprocessing(
        input_size=(3, height, width),
        crop_pct=crop_pct,
        crop_mode="center" if shortest_edge else "squash",
        interpolation=_interpolation(processor.get("resample")),
        mean=mean,
        std=std,
    )


def _interpolation(resample: int | None) -> str:
    """Return timm's word for Pillow's number; without one it is Pillow's bilinear."""
    number = 2 if resample is None else int(resample)
    if number not in _INTERPOLATIONS:
        raise ModelError(f"the image processor's resample {resample} is not understood; pass preprocessing=")
    return _INTERPOLATIONS[number]


def assumed_preprocessing(config: Any) -> Preprocessing:
    """Return ImageNet's preprocessing at the size that a Hugging Face configuration names, marked as
    assumed.
    """
    sides = _sides(getattr(config, "image_size", None)) or (224,)
    return Preprocessing(input_size=(3, sides[0], sides[-1]), assumed=True)


def _transformers(name: str) -> Any:
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"'{name}' is a Hugging Face model: pip install 'vitq[hf]'") from error
    return transformers


def _processor(transformers: Any, name: str) -> dict[str, Any]:
    """The image processor's values, empty where the model comes without one."""
    try:
        return cast(dict[str, Any], transformers.AutoImageProcessor.from_pretrained(name).to_dict())
    except (OSError, ValueError):
        return {}


def _check_trained(name: str, report: Mapping[str, Any]) -> None:
    untrained = sorted(str(key) for key in report.get("missing_keys", ())) + sorted(
        str(key) for key in report.get("mismatched_keys", ())
    )
    if untrained:
        raise ModelError(
            f"'{name}' has no trained weights for {', '.join(untrained[:5])}: it is not a finished image "
            "classifier; choose a fine-tuned one or pass weights=FILE (--weights FILE)"
        )


def _sides(size: Any) -> tuple[int, ...] | None:
    """(short edge,) or (height, width) of the forms that processors use: a number, a pair or a mapping."""
    if isinstance(size, int):
        return (size,)
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, Mapping):
        if size.get("shortest_edge"):
            return (int(size["shortest_edge"]),)
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
    return None


def _crop_pct(crop: int, short_side: int) -> float:
    """The share whose ``floor(crop / share)`` is exactly ``short_side``; at most 1."""
    share = min(crop / short_side, 1.0)
    return share if math.floor(crop / share) >= short_side else math.nextafter(share, 0.0)


def _normalisation(processor: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for pixels in 0..1: ((255 f x) - mean) / std == (x - mean / 255f) / (std / 255f)."""
    normalised = processor.get("do_normalize", True) and processor.get("image_mean") is not None
    mean, std = (processor["image_mean"], processor["image_std"]) if normalised else ([0.0] * 3, [1.0] * 3)
    factor = 255 * float(processor.get("rescale_factor") or 1 / 255) if processor.get("do_rescale", True) else 255.0
    return tuple(float(value) / factor for value in mean), tuple(float(value) / factor for value in std)

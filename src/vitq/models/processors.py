"""Hugging Face image processors as preprocessing: translated by their values, then compared with themselves.

A processor either does what ``Preprocessing`` can say, within ``TOLERANCE``, or is refused by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitq.errors import ModelError, first_line
from vitq.models.preprocessing import Preprocessing

TOLERANCE = 0.02
"""Mean absolute difference of normalised pixels; two resizing routines differ by less."""

_BY_NUMBER = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
_SUFFIXES = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")
_USUAL_STD = 0.225
_SHARES = ((1.31, 1.75), (0.9, 0.62), (1.4, 1.43))
"""Height and width of the compared pictures, as shares of the model's input: landscape, portrait, almost square."""


@dataclass(frozen=True)
class Placement:
    """Where a picture's pixels go: resized to (short side,) or (height, width), then cut to ``crop``."""

    resized: tuple[int, ...]
    crop: tuple[int, int] | None


def load_processor(transformers: Any, name: str, has_file: bool) -> Any:
    """Return the image processor of a hub id or local folder, None where the model comes without one.

    Raises ModelError where there is one (``has_file``) that cannot be read, or would run code of its own.
    """
    try:
        return transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # odd values of a stranger's file end in any type
        own_code = "trust_remote_code" in str(error)
        if isinstance(error, OSError | ValueError) and not has_file and not own_code:
            return None
        raise refusal(f"the image processor of '{name}'", f"cannot be read ({first_line(error, 200)})") from error


def processor_values(processor: Any) -> dict[str, Any]:
    """Return a processor's values, its class under ``image_processor_type``."""
    return {**processor.to_dict(), "image_processor_type": type(processor).__name__}


def processor_preprocessing(processor: Mapping[str, Any]) -> Preprocessing:
    """Translate the values of a Hugging Face image processor; raise ModelError where they cannot be."""
    name = str(processor.get("image_processor_type", "the image processor"))
    if isinstance(processor.get("data_config"), Mapping):
        return _timm_values(processor["data_config"])
    try:
        placement = _placement(processor, name)
        mean, std = _normalisation(processor, name)
        interpolation = _interpolation(processor.get("resample"), name)
        mode, size, share = _as_crop(placement, name)
    except (TypeError, ValueError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise refusal(name, f"has values that are not understood ({first_line(error, 200)})") from error
    return Preprocessing((3, *size), share, mode, interpolation, mean, std)  # type: ignore[arg-type]


def swaps_channels(processor: Mapping[str, Any]) -> bool:
    """Whether the processor gives BGR."""
    return bool(processor.get("do_flip_channel_order"))


def compare(processor: Any, preprocessing: Preprocessing, bgr: bool) -> None:
    """Run both on three pictures; raise ModelError where they differ by more than ``TOLERANCE``."""
    name = type(processor).__name__
    if preprocessing.interpolation == "nearest" and getattr(processor, "backend", "") == "torchvision":
        raise refusal(name, "picks nearest pixels in torch, which are others than Pillow's for some sizes")
    ours = preprocessing.transform()
    scale_C11 = (torch.tensor(preprocessing.std)[:, None, None] / _USUAL_STD).clamp(max=1)
    for picture in example_pictures(preprocessing.input_size[1:]):
        x_CHW = ours(picture)
        try:
            theirs_CHW = _pixel_values(processor, picture)
        except Exception as error:  # a processor of pairs, boxes, prompts
            raise refusal(name, f"does not take one picture ({first_line(error, 200)})") from error
        if theirs_CHW is None or theirs_CHW.shape != x_CHW.shape:
            got = "no pixel_values" if theirs_CHW is None else f"pixels of shape {tuple(theirs_CHW.shape)}"
            raise refusal(name, f"makes {got} of a {picture.width}x{picture.height} picture, not {tuple(x_CHW.shape)}")
        difference = float(((theirs_CHW.flip(0) if bgr else theirs_CHW) - x_CHW).mul(scale_C11).abs().mean())
        if not difference <= TOLERANCE:
            raise refusal(name, f"gives other pixels than vitq's preprocessing of its values: {difference:.3g} off")


def example_pictures(size: tuple[int, int]) -> list[Image.Image]:
    """Return seeded pictures with edges, slopes and grain, whose sides are ``_SHARES`` of ``size``."""
    random = np.random.default_rng(0)
    pictures = []
    for rows, columns in _SHARES:
        height, width = (max(round(side * share), 16) for side, share in zip(size, (rows, columns), strict=True))
        y_H1, x_1W = np.linspace(0, 6, height)[:, None], np.linspace(0, 9, width)[None]
        planes_CHW = np.stack([np.sin(x_1W + c) * np.cos(y_H1 * (c + 1)) + (y_H1 > 2 + c) for c in range(3)])
        grain_CHW = random.normal(0, 20, planes_CHW.shape)
        pixels_CHW = np.clip(100 + 60 * planes_CHW + grain_CHW, 0, 255).astype(np.uint8)
        pictures.append(Image.fromarray(pixels_CHW.transpose(1, 2, 0).copy()))
    return pictures


def refusal(name: str, reason: str) -> ModelError:
    """The error for a processor that vitq cannot follow, with the way out."""
    return ModelError(
        f"{name} {reason}; say how images are prepared with preprocessing=Preprocessing(input_size=(3, height, width), "
        "crop_pct=…, crop_mode=…, interpolation=…, mean=…, std=…); images given as tensors need its input_size only"
    )


def _placement(processor: Mapping[str, Any], name: str) -> Placement:
    """Where pixels go, by class where a class has a rule of its own. Source: transformers' image processors."""
    if not processor.get("do_resize"):
        raise refusal(name, "does not resize (do_resize), so its pictures have no common size")
    size = _sides(processor.get("size"))
    if size is None:
        raise refusal(name, f"has a size that is not understood ({processor.get('size')})")
    crop = _sides(processor.get("crop_size")) if processor.get("do_center_crop") else None
    if processor.get("do_center_crop") and crop is None:
        raise refusal(name, f"has a crop_size that is not understood ({processor.get('crop_size')})")
    cut = None if crop is None else (crop[0], crop[-1])
    share = processor.get("crop_pct")
    match _kind(processor):
        case "Levit" if len(size) == 1:
            return Placement((int(256 / 224 * size[0]),), cut)
        case "PoolFormer" if share is not None:
            enlarged = tuple(int(side / share) for side in size)
            return Placement(enlarged[:1] if len(set(enlarged)) == 1 else enlarged, cut)
        case "ConvNext" if len(size) == 1:
            side = size[0]
            enlarged = (side, side) if side >= 384 else (int(side / (224 / 256 if share is None else share)),)
            return Placement(enlarged, cut or (side, side))
        case _:
            return Placement(size, cut)


def _as_crop(placement: Placement, name: str) -> tuple[str, tuple[int, int], float]:
    """Return the crop mode, the crop's size and its share of the resized picture."""
    resized, crop = placement.resized, placement.crop
    if len(resized) == 1:
        if crop is None:
            raise refusal(name, "keeps the aspect ratio without a crop (do_center_crop), so pictures differ in size")
        if max(crop) > resized[0]:
            raise refusal(name, f"cuts {crop[0]}x{crop[1]} out of a short side of {resized[0]}, which adds a border")
        return "shortest_edge", crop, _share(min(crop), resized[0])
    height, width = resized
    crop = crop or (height, width)
    share = min(_share(cut, side) for cut, side in zip(crop, resized, strict=True))
    if any(math.floor(cut / share) != side for cut, side in zip(crop, resized, strict=True)):
        raise refusal(name, f"cuts {crop[0]}x{crop[1]} out of {height}x{width}, unequal shares of the two sides")
    return "squash", crop, share


def _normalisation(processor: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for pixels in 0..1: ((255 f x) - mean) / std == (x - mean / 255f) / (std / 255f)."""
    kind = _kind(processor)
    normalised = bool(processor.get("do_normalize")) and kind != "MobileViT"
    mean, std = [0.0] * 3, [1.0] * 3
    if normalised:
        mean, std = _three(processor.get("image_mean")), _three(processor.get("image_std"))
    factor = 255.0
    if processor.get("do_rescale"):
        factor = 255 * float(processor.get("rescale_factor") or 1 / 255)
        if processor.get("rescale_offset"):
            mean = [value + 1 for value in mean]
    if kind == "EfficientNet" and processor.get("include_top"):  # it divides by the deviation once more
        std = [value * again for value, again in zip(std, _three(processor.get("image_std")), strict=True)]
    if not all(value > 0 for value in (factor, *std)):
        raise refusal(name, f"divides by std {std} and multiplies by {factor / 255}; both must be above 0")
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _three(values: Any) -> list[float]:
    """One number for each of three channels."""
    numbers = [values] * 3 if isinstance(values, int | float) else list(values)
    if len(numbers) != 3:
        raise ValueError(f"{len(numbers)} channels")
    return [float(number) for number in numbers]


def _interpolation(resample: Any, name: str) -> str:
    """Return timm's word for Pillow's number; without one it is Pillow's bilinear."""
    number = 2 if resample is None else int(resample)
    if not 0 <= number < len(_BY_NUMBER):
        raise refusal(name, f"has a resample of {resample}, which is none of Pillow's")
    return _BY_NUMBER[number]


def _sides(size: Any) -> tuple[int, ...] | None:
    """(short edge,) or (height, width) of the forms that processors use: a number, a pair or a mapping."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, Mapping):
        values = {key: value for key, value in size.items() if value is not None}
        if set(values) == {"shortest_edge"}:
            return (int(values["shortest_edge"]),)
        if set(values) == {"height", "width"}:
            return int(values["height"]), int(values["width"])
    return None


def _share(crop: int, side: int) -> float:
    """The share whose ``floor(crop / share)`` is exactly ``side``; at most 1."""
    share = min(crop / side, 1.0)
    return share if math.floor(crop / share) >= side else math.nextafter(share, 0.0)


def _timm_values(config: Mapping[str, Any]) -> Preprocessing:
    """timm's own data configuration, which the processor of wrapped timm models carries."""
    names = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    return Preprocessing.from_dict({name: config[name] for name in names if name in config})


def _kind(processor: Mapping[str, Any]) -> str:
    """The processor's class without what says how it is implemented."""
    name = str(processor.get("image_processor_type", ""))
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _pixel_values(processor: Any, picture: Image.Image) -> Tensor | None:
    values = processor(picture, return_tensors="pt").get("pixel_values")
    return None if values is None else torch.as_tensor(values[0]).to(torch.float32)

"""How an image becomes the tensor that a model was trained for: resize, crop, normalise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor

from vitq.errors import DataError, ModelError
from vitq.models.torchvision_shim import ensure_torchvision

Transform = Callable[[Image.Image], Tensor]
"""A picture (RGB) to a normalised float32 tensor of shape (C, H, W)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

AUGMENTED_AREA = (0.5, 1.0)
AUGMENTED_RATIO = (3 / 4, 4 / 3)
CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True)
class Preprocessing:
    """A model's evaluation preprocessing; the defaults are ImageNet's. Source: timm's data configuration.

    ``input_size`` is (channels, height, width); the short side becomes ``floor(side / crop_pct)`` pixels
    before the crop; ``mean`` and ``std`` are per channel, of pixel values in 0..1. no ``mean``
    and no ``std`` are for tensors that are already preprocessed. ``assumed`` says that the model came without
    a configuration and that these values are a guess.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    crop_mode: Literal["center", "squash", "border"] = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    assumed: bool = False

    def __post_init__(self) -> None:
        channels = self.input_size[0]
        if not self.mean and not self.std:  # of tensors that are already preprocessed, of any channels
            return
        if channels not in (1, 3) or len(self.mean) != channels or len(self.std) != channels:
            raise ModelError(
                f"preprocessing: {len(self.mean)} means, {len(self.std)} stds, input_size {self.input_size}; "
                "give 1 or 3 channels and a mean and std for each"
            )
        if not 0 < self.crop_pct <= 1:
            raise ModelError(
                f"preprocessing: crop_pct {self.crop_pct}; it is a share of the image, above 0 and at most 1"
            )
        if self.crop_mode not in CROP_MODES:
            raise ModelError(f"preprocessing: crop_mode '{self.crop_mode}'; choose one of: {', '.join(CROP_MODES)}")

    def describe(self) -> str:
        """Return one line for people: size, crop, interpolation and normalisation."""
        channels, height, width = self.input_size
        if not self.mean:
            return f"{channels}x{height}x{width}, already preprocessed"
        mean = ", ".join(f"{value:.3g}" for value in self.mean)
        std = ", ".join(f"{value:.3g}" for value in self.std)
        guess = " (assumed: the model came without a configuration)" if self.assumed else ""
        return (
            f"{channels}x{height}x{width}, {self.crop_mode} crop {self.crop_pct:.4g}, {self.interpolation}, "
            f"mean {mean}, std {std}{guess}"
        )

    def transform(self) -> Transform:
        """Return timm's own evaluation transform for these values."""
        if not self.mean:
            return self._refuse
        ensure_torchvision()
        from timm.data import create_transform

        evaluate = create_transform(**self._timm_arguments(), is_training=False)
        return _on_channels(self.input_size[0], cast(Transform, evaluate))

    def augmented(self, generator: torch.Generator) -> Transform:
        """Return a random crop of half to all of the area, mirrored half the time, by ``generator``."""
        if not self.mean:
            return self._refuse
        ensure_torchvision()
        from timm.data.transforms import str_to_interp_mode
        from torchvision.transforms import functional

        _, height, width = self.input_size
        interpolation = str_to_interp_mode(self.interpolation)

        def augment(image: Image.Image) -> Tensor:
            top, left, crop_height, crop_width = random_crop_box(image.height, image.width, width / height, generator)
            view = functional.resized_crop(image, top, left, crop_height, crop_width, [height, width], interpolation)
            if torch.rand((), generator=generator) < 0.5:
                view = functional.hflip(view)
            return cast(Tensor, functional.normalize(functional.to_tensor(view), self.mean, self.std))

        return _on_channels(self.input_size[0], augment)

    def of_tensors(self, shape: tuple[int, int, int]) -> "Preprocessing":
        """Return these values for tensors (C, H, W) that are already preprocessed; without mean and std where C is
        another than theirs, so that no picture fits.
        """
        if len(self.mean) == shape[0]:
            return replace(self, input_size=shape)
        return replace(self, input_size=shape, mean=(), std=())

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Read what ``to_dict`` wrote; raise ModelError for unknown names."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ModelError(f"preprocessing: unknown {', '.join(sorted(unknown))}")
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)

    def _refuse(self, image: Image.Image) -> Tensor:
        channels, height, width = self.input_size
        raise DataError(
            f"a picture of {image.width}x{image.height} pixels for a model of preprocessed tensors "
            f"{channels}x{height}x{width}; give such tensors"
        )

    def _timm_arguments(self) -> dict[str, Any]:
        names = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
        return {name: getattr(self, name) for name in names}


def random_crop_box(
    height: int, width: int, target_ratio: float, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) in pixels: 50-100 % of the area, aspect 3/4 to 4/3 of ``target_ratio``.

    The rule of torchvision's RandomResizedCrop, with a generator of its own so that threads do not mix;
    ten draws that do not fit are answered by the largest centred square.
    """
    log_ratio = [math.log(target_ratio * bound) for bound in AUGMENTED_RATIO]
    for _ in range(10):
        area_draw, ratio_draw, top_draw, left_draw = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (AUGMENTED_AREA[0] + area_draw * (AUGMENTED_AREA[1] - AUGMENTED_AREA[0]))
        ratio = math.exp(log_ratio[0] + ratio_draw * (log_ratio[1] - log_ratio[0]))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(top_draw * (height - crop_height + 1)), int(left_draw * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _on_channels(channels: int, transform: Transform) -> Transform:
    if channels == 3:
        return transform
    return lambda image: transform(image.convert("L"))

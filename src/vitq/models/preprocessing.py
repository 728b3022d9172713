"""How an image becomes the tensor that a model was trained for: resize, crop, normalise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor

from vitq.errors import DataError, ModelError, did_you_mean
from vitq.models.torchvision_shim import ensure_torchvision

Transform = Callable[[Image.Image], Tensor]
"""A picture (RGB) to a normalised float32 tensor of shape (C, H, W)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

AUGMENTED_AREA = (0.5, 1.0)
AUGMENTED_RATIO = (3 / 4, 4 / 3)
CROP_MODES = ("center", "squash", "border", "shortest_edge")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
LARGEST_SIDE = 8192
LARGEST_MEAN, SMALLEST_STD = 1e6, 1e-6
"""Of pixel values in 0..1; what lies beyond leaves the range of float32 in a model."""


@dataclass(frozen=True)
class Preprocessing:
    """A model's evaluation preprocessing; the defaults are ImageNet's. Source: timm's data configuration.

    ``input_size`` is (channels, height, width); the short side becomes ``floor(side / crop_pct)`` pixels
    before the crop; ``mean`` and ``std`` are per channel, of pixel values in 0..1. No ``mean`` and no ``std`` are for
    tensors that are already preprocessed. ``crop_mode`` "center", "squash" and "border" are timm's; "shortest_edge" is
    Hugging Face's: the picture's short side becomes ``floor(min(height, width) / crop_pct)`` whatever the crop's form,
    an odd pixel is cut at the bottom or the right, and a crop that is larger than the picture is black outside.
    ``assumed`` says that the model came without a configuration and that these values are a guess. Raises ModelError
    for values that cannot be.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    crop_mode: Literal["center", "squash", "border", "shortest_edge"] = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    assumed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.assumed, bool):
            raise ModelError(f"preprocessing: assumed {_shown(self.assumed)}; it is True or False")
        if not _is_size(self.input_size):
            raise ModelError(
                f"preprocessing: input_size {_shown(self.input_size)}; give (channels, height, width), whole numbers "
                f"from 1 to {LARGEST_SIDE}"
            )
        channels = self.input_size[0]
        if self.mean == () and self.std == ():  # of tensors that are already preprocessed, of any channels
            return
        numbers = _are_numbers(self.mean) and _are_numbers(self.std)
        if channels not in (1, 3) or not numbers or len(self.mean) != channels or len(self.std) != channels:
            given = (
                f"{len(self.mean)} means, {len(self.std)} stds"
                if numbers
                else f"mean {_shown(self.mean)}, std {_shown(self.std)}"
            )
            raise ModelError(
                f"preprocessing: {given}, input_size {self.input_size}; "
                "give 1 or 3 channels and a mean and std for each"
            )
        if min(self.std) < SMALLEST_STD:
            raise ModelError(f"preprocessing: std {self.std}; pixels are divided by it, so each is above 0")
        if max(map(abs, (*self.mean, *self.std))) > LARGEST_MEAN:
            raise ModelError(f"preprocessing: mean {self.mean}, std {self.std}; they are of pixel values in 0..1")
        if not _are_numbers((self.crop_pct,)) or not 0 < self.crop_pct <= 1:
            raise ModelError(
                f"preprocessing: crop_pct {_shown(self.crop_pct)}; it is a share of the image, above 0 and at most 1"
            )
        if max(self.input_size[1:]) / self.crop_pct > LARGEST_SIDE:
            raise ModelError(
                f"preprocessing: crop_pct {self.crop_pct} of input_size {self.input_size} enlarges pictures to more "
                f"than {LARGEST_SIDE} pixels a side"
            )
        for name, value, known in (
            ("crop_mode", self.crop_mode, CROP_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise ModelError(f"preprocessing: {name} {_shown(value)}{did_you_mean(str(value)[:80], known)}")

    def describe(self) -> str:
        """Return one line for people: size, crop, interpolation and normalisation."""
        channels, height, width = self.input_size
        if not self.mean:
            return f"{channels}x{height}x{width}, already preprocessed"
        mean = ", ".join(f"{value:.3g}" for value in self.mean)
        std = ", ".join(f"{value:.3g}" for value in self.std)
        guess = " (assumed: the model came without a configuration; preprocessing= changes it)" if self.assumed else ""
        return (
            f"{channels}x{height}x{width}, {self.crop_mode} crop {self.crop_pct:.4g}, {self.interpolation}, "
            f"mean {mean}, std {std}{guess}"
        )

    def transform(self, normalised: bool = True) -> Transform:
        """Return timm's own evaluation transform for these values, and Hugging Face's for "shortest_edge".

        Without ``normalised`` it gives bytes, a quarter of the memory, which ``normalise`` takes.
        """
        if not self.mean:
            return self._refuse
        ensure_torchvision()
        from timm.data import create_transform

        if self.crop_mode == "shortest_edge":
            return self._on_channels(self._shortest_edge, normalised)
        evaluate = create_transform(**self._timm_arguments(), is_training=False, use_prefetcher=True)
        return self._on_channels(cast(Callable[[Image.Image], Any], evaluate), normalised)

    def normalise(self, x: Tensor) -> Tensor:
        """Return bytes (…, C, H, W) as the model takes them, in float32 whatever the default type is."""
        mean_C11, std_C11 = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (self.mean, self.std))
        return x.to(torch.float32).div_(255).sub_(mean_C11).div_(std_C11)

    def augmented(self, generator: torch.Generator) -> Transform:
        """Return a random crop of half to all of the area, mirrored half the time, by ``generator``."""
        if not self.mean:
            return self._refuse
        ensure_torchvision()
        from timm.data.transforms import str_to_interp_mode
        from torchvision.transforms import functional

        _, height, width = self.input_size
        interpolation = str_to_interp_mode(self.interpolation)

        def augment(image: Image.Image) -> Image.Image:
            top, left, crop_height, crop_width = random_crop_box(image.height, image.width, width / height, generator)
            view = functional.resized_crop(image, top, left, crop_height, crop_width, [height, width], interpolation)
            if torch.rand((), generator=generator) < 0.5:
                view = functional.hflip(view)
            return cast(Image.Image, view)

        return self._on_channels(augment)

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
        unknown = sorted(str(name) for name in set(values) - set(cls.__dataclass_fields__))
        if unknown:
            hint = did_you_mean(unknown[0][:80], cls.__dataclass_fields__)
            raise ModelError(f"preprocessing: unknown {', '.join(unknown)[:100]}{hint}")
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)

    @classmethod
    def check_values(cls, values: Mapping[str, Any]) -> None:
        """Raise ModelError where ``values`` cannot be some of a model's, whatever the model's own others are."""
        size, mean, std = (values.get(name) for name in ("input_size", "mean", "std"))
        known = [len(given) for given in (mean, std) if isinstance(given, list | tuple)]
        if isinstance(size, list | tuple) and size:
            known = [size[0], *known] if size[0] in (1, 3) else [0]
        channels = known[0] if known else 3
        fitting = {"mean": [0.5] * channels, "std": [0.5] * channels, "crop_pct": 1.0}
        cls.from_dict({**fitting, "input_size": [channels or 3, 32, 32], **values})

    def changed(self, given: "Preprocessing | Mapping[str, Any] | None") -> "Preprocessing":
        """Return ``given`` where it is whole, and these values with the ones that a mapping names."""
        if given is None or isinstance(given, Preprocessing):
            return self if given is None else given
        if not isinstance(given, Mapping):
            raise ModelError(f"preprocessing is a {type(given).__name__}; give a Preprocessing or a dict of its values")
        return Preprocessing.from_dict({**self.to_dict(), **given})

    @classmethod
    def whole(cls, given: "Preprocessing | Mapping[str, Any] | None") -> "Preprocessing | None":
        """Return ``given`` where it needs nothing of the model's own: a value, or a mapping that names all but
        ``assumed``; otherwise None.
        """
        if isinstance(given, Mapping) and set(cls.__dataclass_fields__) - {"assumed"} <= set(given):
            return cls.from_dict(given)
        return given if isinstance(given, Preprocessing) else None

    def _shortest_edge(self, image: Image.Image) -> Image.Image:
        """Resize the short side, cut at the centre. Source: transformers' ``resize`` and ``center_crop``."""
        from timm.data.transforms import str_to_interp_mode
        from torchvision.transforms import functional

        _, height, width = self.input_size
        short_side = math.floor(min(height, width) / self.crop_pct)
        resized = functional.resize(image, [short_side], str_to_interp_mode(self.interpolation))
        missing = [max(width - resized.width, 0), max(height - resized.height, 0)]
        if any(missing):
            before = [side // 2 for side in missing]
            resized = functional.pad(resized, [*before, *(m - b for m, b in zip(missing, before, strict=True))])
        top, left = (resized.height - height) // 2, (resized.width - width) // 2
        return cast(Image.Image, functional.crop(resized, top, left, height, width))

    def _on_channels(self, place: Callable[[Image.Image], Any], normalised: bool = True) -> Transform:
        """Turn pictures to gray for one channel, ``place`` them, normalise them if asked."""
        gray = self.input_size[0] == 1

        def transform(image: Image.Image) -> Tensor:
            placed = place(image.convert("L") if gray else image)
            x_CHW = torch.as_tensor(_pixels(placed) if isinstance(placed, Image.Image) else placed)
            return self.normalise(x_CHW) if normalised else x_CHW

        return transform

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


def _pixels(image: Image.Image) -> Tensor:
    """A picture's 8-bit pixels as they are stored: (C, H, W)."""
    from torchvision.transforms import functional

    return cast(Tensor, functional.pil_to_tensor(image))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text):,} characters)"


def _is_size(size: Any) -> bool:
    whole = isinstance(size, tuple) and len(size) == 3 and all(isinstance(n, int) for n in size)
    return whole and all(1 <= n <= LARGEST_SIDE and not isinstance(n, bool) for n in size)


def _are_numbers(values: Any) -> bool:
    """Whether ``values`` is a tuple of finite numbers."""
    return isinstance(values, tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )

"""A model as a function from images to one tensor, found by running it on two images."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vitq.errors import DataError, ModelError, VitqError
from vitq.models.huggingface import LogitsOf
from vitq.models.loaded import LoadedModel

PREFERRED = ("logits", "image_embeds", "pooler_output")
"""The output of a Hugging Face model that is taken where it has several: classes, else features of the whole image."""

Warn = Callable[[str, str], None]


class OneTensor(nn.Module):
    """A model whose output is a container of one tensor, or one number an image, as ``x_BCHW -> y_BK``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the only tensor, (B,) as (B, 1)."""
        ((_, y),) = named_tensors(self.model(x_BCHW))
        return y[:, None] if y.ndim == 1 else y


class AllOutputs(nn.Module):
    """A Hugging Face model with all that it returns."""

    def __init__(self, model: LogitsOf) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Any:
        """Return the model's own output."""
        return self.model.outputs(x_BCHW)


def settle(loaded: LoadedModel, x_NCHW: Tensor, warn: Warn) -> LoadedModel:
    """Run the model on two images: return it with one output tensor (B, …) and the number of classes that it has.

    A container of one tensor is opened; of a Hugging Face model's outputs the first of ``PREFERRED`` is taken and
    the others are named in a warning; one number an image (B,) becomes (B, 1). Raises ModelError for several
    tensors, no tensor, one number for all images, integers, NaN, a model that does not take the images, and
    another number of classes than was said.
    """
    x_2CHW = torch.cat((x_NCHW[:2], x_NCHW[:2]))[:2]
    module = loaded.module
    outputs = _run(loaded.name, module.outputs if isinstance(module, LogitsOf) else module, x_2CHW)
    named = dict(named_tensors(outputs))
    if isinstance(module, LogitsOf):
        name = _preferred(loaded.name, outputs, named, warn)
        y = named[name]
        if not name.isidentifier():  # the only tensor, inside a list of feature maps
            module = AllOutputs(module)
        elif name != module.output:
            module = LogitsOf(module.model, module.bgr, name)
    elif len(named) == 1:
        y = next(iter(named.values()))
    else:
        raise _several(loaded.name, named, outputs)
    _check(loaded.name, y, x_2CHW, loaded.module)
    if y.ndim == 1:
        warn("output-column", f"{loaded.name} returns one number an image; vitq's model returns them as (images, 1)")
    if y.ndim == 1 or not (isinstance(outputs, Tensor) or isinstance(module, LogitsOf)):
        module = OneTensor(module)
    return _with_width(replace(loaded, module=module), 1 if y.ndim == 1 else y.shape[1] if y.ndim == 2 else None)


def named_tensors(outputs: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Walk through the tensors in dicts, tuples, lists, dataclasses and their nestings, each with its place."""
    if isinstance(outputs, Tensor):
        yield name, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        yield from named_tensors(dict(zip(outputs._fields, outputs, strict=True)), name)
    elif isinstance(outputs, tuple | list):
        for index, value in enumerate(outputs):
            yield from named_tensors(value, f"{name}[{index}]")
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        yield from named_tensors({f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}, name)


def _run(name: str, function: Callable[[Tensor], Any], x_BCHW: Tensor) -> Any:
    try:
        with torch.no_grad():
            return function(x_BCHW)
    except VitqError:
        raise
    except Exception as error:  # a model raises what it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            f"{name} cannot be run on images of shape {tuple(x_BCHW.shape)} ({type(error).__name__}: {reason}); "
            "vitq calls model(images) with nothing else: check their size (preprocessing=), or wrap the model"
        ) from error


def _preferred(model: str, outputs: Any, named: Mapping[str, Tensor], warn: Warn) -> str:
    """The name of the output that is kept; the others are named in a warning."""
    kept = next((name for name in PREFERRED if name in named), None)
    if kept is None:
        if len(named) != 1:
            raise _several(model, named, outputs)
        return next(iter(named))
    if len(named) > 1:
        warn(
            "outputs-dropped",
            f"{model} returns {_shapes(named)}: only {kept} is kept; "
            "for another, give a module whose forward returns it alone",
        )
    return kept


def _several(model: str, named: Mapping[str, Tensor], outputs: Any) -> ModelError:
    if not named:
        return ModelError(
            f"{model} returns no tensor but {'None' if outputs is None else f'a {type(outputs).__name__}'}; "
            "vitq needs one tensor out: give a module whose forward returns it"
        )
    return ModelError(
        f"{model} returns {len(named)} tensors: {_shapes(named)}; vitq needs one tensor out: give a module that picks "
        f"it, with forward(self, x): return self.model(x){_first_place(outputs)}"
    )


def _first_place(outputs: Any) -> str:
    """Return how Python picks the first tensor of ``outputs``: ``['a'][0].b``."""
    if isinstance(outputs, Mapping):
        parts = {f"[{key!r}]": value for key, value in outputs.items()}
    elif hasattr(outputs, "_fields"):
        parts = {f".{name}": getattr(outputs, name) for name in outputs._fields}
    elif isinstance(outputs, tuple | list):
        parts = {f"[{index}]": value for index, value in enumerate(outputs)}
    elif dataclasses.is_dataclass(outputs):
        parts = {f".{field.name}": getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    else:
        return ""
    place, inside = next((place, value) for place, value in parts.items() if any(named_tensors(value)))
    return place + _first_place(inside)


def _check(name: str, y: Tensor, x_BCHW: Tensor, module: nn.Module) -> None:
    if y.ndim == 0 or len(y) != len(x_BCHW):
        shape = "one number" if y.ndim == 0 else f"{tuple(y.shape)}"
        raise ModelError(
            f"{name} returns {shape} for {len(x_BCHW)} images; vitq needs an output for each image, (images, …): "
            "give the model without the mean, the loss or the transpose at its end"
        )
    if y.numel() == 0:
        raise ModelError(f"{name} returns {tuple(y.shape)}, no value at all; give the model with its head")
    if not y.is_floating_point():
        raise ModelError(f"{name} returns {y.dtype}; give the model that returns logits, before argmax or thresholds")
    if bool(torch.isfinite(y).all()):
        return
    if not bool(torch.isfinite(x_BCHW).all()):
        raise DataError("the images hold NaN or infinity")
    sizes = {path: float(p.detach().abs().max()) for path, p in module.named_parameters() if p.numel()}
    largest = max(sizes, key=lambda path: sizes[path], default=None)
    weight = "" if largest is None else f"; the largest weight is {sizes[largest]:.3g} in '{largest}'"
    raise ModelError(
        f"{name} returns NaN or infinity for images whose largest value is {float(x_BCHW.abs().max()):.3g}{weight}; "
        "check the weights, and that the images are normalised"
    )


def _with_width(loaded: LoadedModel, width: int | None) -> LoadedModel:
    """Let the output's width be the number of classes."""
    if width is None or width == loaded.num_classes:
        return loaded
    if loaded.num_classes is not None:
        raise ModelError(
            f"num_classes={loaded.num_classes}, but {loaded.name} returns {width} values an image; "
            f"leave num_classes out, or pass {width}"
        )
    return replace(loaded, num_classes=width, source={**loaded.source, "num_classes": width})


def _shapes(named: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named.items())

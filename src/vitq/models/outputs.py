"""A model as a function from images to named outputs, found by running it on two images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vitq.errors import DataError, ModelError, VitqError, first_line
from vitq.graph.outputs import ONLY, named_outputs, own_names
from vitq.models.huggingface import LogitsOf
from vitq.models.loaded import LoadedModel
from vitq.tasks import name_of, task_for
from vitq.tasks.choose import own_task
from vitq.tasks.recognize import recognized

Warn = Callable[[str, str], None]


class OneTensor(nn.Module):
    """A model whose output is a container of one tensor, or one number an image, as ``x_BCHW -> y_BK``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the only tensor, (B,) as (B, 1)."""
        return _column(named_outputs(self.model(x_BCHW))[ONLY])


class NamedOutputs(nn.Module):
    """A model that returns several tensors, whatever their container, as ``x_BCHW -> {name: tensor}``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return all tensors by name, (B,) as (B, 1)."""
        outputs = self.model.outputs(x_BCHW) if isinstance(self.model, LogitsOf) else self.model(x_BCHW)
        return {name: _column(y) for name, y in named_outputs(outputs).items()}


class AllOutputs(nn.Module):
    """A Hugging Face model with all that it returns."""

    def __init__(self, model: LogitsOf) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Any:
        """Return the model's own output."""
        return self.model.outputs(x_BCHW)


def settle(loaded: LoadedModel, x_NCHW: Tensor, warn: Warn) -> LoadedModel:
    """Run the model on two images: return it with its outputs as one tensor (B, …) or a dict of them, its task and its
    number of classes.

    A container of one tensor is opened; several are all kept, by name; one number an image (B,) becomes (B, 1). Raises
    ModelError for no tensor, an output that is not one for each image, integers, NaN, a model that does not take the
    images, and another number of classes than was said.
    """
    x_2CHW = torch.cat((x_NCHW[:2], x_NCHW[:2]))[:2]
    module = loaded.module
    given = _run(loaded.name, module.everything if isinstance(module, LogitsOf) else module, x_2CHW)
    outputs, left_out = given, loaded.left_out
    if isinstance(module, LogitsOf):
        outputs = module.kept(given)
        left_out = tuple(name for name in own_names(given) if name not in own_names(outputs))
    named: dict[str, Tensor] = named_outputs(outputs)
    if not named:
        raise ModelError(
            f"{loaded.name} returns no tensor but {'None' if outputs is None else f'a {type(outputs).__name__}'}; "
            "vitq needs tensors out: give a module whose forward returns them"
        )
    for name, y in named.items():
        _check(loaded.name if len(named) == 1 else f"{loaded.name}'s output '{name}'", y, x_2CHW, loaded.module)
    if columns := [name for name, y in named.items() if y.ndim == 1]:
        which = loaded.name if len(named) == 1 else f"{loaded.name}'s output '{columns[0]}'"
        warn("output-column", f"{which} is one number an image; vitq's model returns them as (images, 1)")
    settled = replace(loaded, module=_by_name(module, outputs, len(named), bool(columns)))
    shapes = {name: tuple(_column(y).shape[1:]) for name, y in named.items()}
    found = recognized(module, dict(zip(own_names(outputs), shapes.values(), strict=True)))
    task = task_for(shapes, loaded.task, found)
    chosen = None if type(task) is type(own_task(shapes)) else name_of(task)  # only what vitq would not choose
    said = f"task {name_of(task)}: {task.describe(shapes)}" + (f"; left out: {', '.join(left_out)}" if left_out else "")
    return _with_width(replace(settled, task=chosen, meaning=said, left_out=left_out), task.classes(shapes))


def _by_name(module: nn.Module, outputs: Any, count: int, columns: bool) -> nn.Module:
    """Let ``module``, which gave ``outputs``, return one tensor, or ``count`` of them by name."""
    if count > 1:
        return module if isinstance(module, NamedOutputs) else NamedOutputs(module)
    if isinstance(module, LogitsOf):
        fields = outputs if isinstance(outputs, Mapping) else {}
        key = next((key for key, y in fields.items() if isinstance(y, Tensor)), "")
        if not key:  # the only tensor, inside a list of feature maps
            return OneTensor(AllOutputs(module))
        module = module if key == module.output else LogitsOf(module.model, module.bgr, key)
        return OneTensor(module) if columns else module
    return module if isinstance(outputs, Tensor) and not columns else OneTensor(module)


def _column(y: Tensor) -> Tensor:
    return y[:, None] if y.ndim == 1 else y


def _run(name: str, function: Callable[[Tensor], Any], x_BCHW: Tensor) -> Any:
    try:
        with torch.no_grad():
            return function(x_BCHW)
    except VitqError:
        raise
    except Exception as error:  # a model raises what it likes
        raise ModelError(
            f"{name} cannot be run on images of shape {tuple(x_BCHW.shape)} ({type(error).__name__}: "
            f"{first_line(error)}); vitq calls model(images) with nothing else: check their size (preprocessing=), or "
            "wrap the model"
        ) from error


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

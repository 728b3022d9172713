"""A part of a larger model: the inputs that it receives when the whole runs, and what the whole gives."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitq.errors import DataError, ModelError, VitqError, did_you_mean, first_line
from vitq.graph.outputs import named_outputs, refilled

Feed = Callable[[nn.Module], Any]
"""Runs a whole model on images and returns, or yields, what it gives."""

IMAGE_AXES = 4


@dataclass(frozen=True)
class Call:
    """How a part is called: its arguments, with the images under ``place``: a position, or a keyword."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int | str

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: str) -> "Call":
        """Return the call with these arguments; ModelError where not just one is a batch of images."""
        named: dict[int | str, Any] = dict(enumerate(args))
        named.update(kwargs.items())
        tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
        places = [key for key, x in tensors.items() if x.ndim == IMAGE_AXES and x.is_floating_point()]
        if len(places) != 1 or len(tensors) != 1:
            given = ", ".join(f"{key}: {tuple(x.shape)}" for key, x in tensors.items()) or "no tensor"
            raise ModelError(
                f"'{path}' receives {given}; vitq quantizes a part with one batch of images (B, C, H, W) and no other "
                "tensor: name a part that takes the images, such as the tower or the backbone"
            )
        return cls(args, kwargs, places[0])

    @property
    def images(self) -> Tensor:
        """The images."""
        value: Tensor = self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]
        return value

    def on(self, x_BCHW: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with other images."""
        if isinstance(self.place, int):
            return (*self.args[: self.place], x_BCHW, *self.args[self.place + 1 :]), dict(self.kwargs)
        return self.args, {**self.kwargs, self.place: x_BCHW}


class PartOf(nn.Module):
    """A part as a function of images alone, called as the whole calls it."""

    def __init__(self, part: nn.Module, call: Call) -> None:
        super().__init__()
        self.part = part
        empty = call.images[:0]
        args, kwargs = call.on(empty)
        self.call = Call(args, kwargs, call.place)

    def forward(self, x_BCHW: Tensor) -> Any:
        """Return what the part returns."""
        args, kwargs = self.call.on(x_BCHW)
        return self.part(*args, **kwargs)


@dataclass
class Received:
    """What a part received and gave, and what the whole gave, in the order of the runs."""

    inputs: list[Tensor] = field(default_factory=list)
    call: Call | None = None
    template: Any = None
    outputs: list[Any] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(map(len, self.inputs))


def part_of(whole: nn.Module, path: str) -> nn.Module:
    """Return the module at ``path``; ModelError, with the nearest path, where there is none."""
    try:
        if path:
            return whole.get_submodule(path)
    except AttributeError:
        pass
    names = [name for name, _ in whole.named_modules() if name]
    raise ModelError(f"{type(whole).__name__} has no part '{path}'{did_you_mean(path, names)}")


@torch.no_grad()
def watch(whole: nn.Module, path: str, feed: Feed, limit: int | None = None) -> Received:
    """Run the whole and return what its part at ``path`` received, until there are ``limit`` images.

    Raises ModelError where the whole does not run the part or calls it with more than images, DataError where images
    have several sizes.
    """
    seen = Received()

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = Call.of(args, kwargs, path)
        if seen.call is None:
            seen.call = call
            seen.template = refilled(output, iter(named_outputs(output).values()))  # the whole may change its own
        if call.images.shape[1:] != seen.inputs[0].shape[1:] if seen.inputs else False:
            sizes = " and ".join("x".join(map(str, x.shape[1:])) for x in (seen.inputs[0], call.images))
            raise DataError(
                f"'{path}' receives images of several sizes, {sizes}; a quantized part runs at one: "
                "prepare the images to one size"
            )
        seen.inputs.append(call.images.detach().float().cpu().clone())

    hook = part_of(whole, path).register_forward_hook(note, with_kwargs=True)
    try:
        seen.outputs = list(outputs_of(whole, feed, lambda: limit is not None and seen.rows >= limit))
    finally:
        hook.remove()
    if not seen.inputs:
        raise ModelError(f"{type(whole).__name__} ran without its part '{path}'; name one that the images go through")
    return seen


def outputs_of(whole: nn.Module, feed: Feed, done: Callable[[], bool] = lambda: False) -> Iterator[Any]:
    """Yield what the whole gives, until it is ``done``; what goes wrong in it is a ModelError."""
    try:
        with torch.no_grad():
            result = feed(whole)
            if not isinstance(result, Iterator):
                yield result
                return
            for outputs in result:
                yield outputs
                if done():
                    return
    except VitqError:
        raise
    except Exception as error:  # another's code
        raise ModelError(
            f"{type(whole).__name__} cannot be run on these images ({type(error).__name__}: {first_line(error)}); give "
            "batches as it takes them (a mapping of keywords, a tuple of arguments, or the one argument), or a "
            "function of the model that runs it and yields what it gives"
        ) from error


def is_ordinary(images: Any) -> bool:
    """Whether images are those of every verb, and not batches for a model or a function that feeds it."""
    if isinstance(images, list) and images:
        return isinstance(images[0], Image.Image | str | Path)
    return isinstance(images, str | Path | Tensor | np.ndarray)


def batches_feed(batches: Any) -> Feed:
    """Return a feed of batches: mappings are keywords, tuples are arguments, anything else is the only argument.

    They are kept as they are read, so that what gives them only once can be run twice.
    """
    kept: list[Any] = []
    remaining = iter(batches)

    def each() -> Iterator[Any]:
        yield from kept
        for batch in remaining:
            kept.append(batch)
            yield batch

    def feed(model: nn.Module) -> Iterator[Any]:
        for batch in each():
            if isinstance(batch, Mapping):
                yield model(**batch)
            else:
                yield model(*batch) if isinstance(batch, tuple) else model(batch)

    return feed


class QuantizedPart(nn.Module):
    """A quantized model in the place of a part of a larger one: it takes and returns what the part did.

    ``model`` is the quantized model, with its artifact, export and metrics; they are reached from here too. The
    container of the outputs is the original's: ``template``, or what ``original`` returns at the first call.
    """

    def __init__(self, model: Any, template: Any = None, original: nn.Module | None = None) -> None:
        super().__init__()
        self.graph_module = model.graph.module
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "_template", template)
        object.__setattr__(self, "_original", original)
        self.images_NCHW: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "model" not in self.__dict__:
                raise
            return getattr(self.__dict__["model"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the part returns, in its own container."""
        call = Call.of(args, kwargs, "the quantized part")
        if self._template is None and self._original is not None:
            with torch.no_grad():
                object.__setattr__(self, "_template", self._original(*args, **kwargs))
            object.__setattr__(self, "_original", None)
        if self.model.device != call.images.device:
            self.model.to(call.images.device)
        result = self.model(call.images)
        leaves = iter(result.values() if isinstance(result, Mapping) else [result])
        return refilled(self._template, leaves)

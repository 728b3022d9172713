"""``vitq.quantize(model, images, inside=PATH)``: a part of a larger model, quantized on the inputs that it receives."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.data import draw_calibration, open_images
from vitq.errors import ModelError
from vitq.model import QuantizedModel
from vitq.models import LoadedModel, Preprocessing, load_whole
from vitq.models.huggingface import run_on_images
from vitq.models.modules import not_a_model, plain_copy
from vitq.models.weights import check_finite, state_sha256
from vitq.run.events import Events
from vitq.run.synthetic import is_generated
from vitq.run.whole import Feed, PartOf, QuantizedPart, Received, batches_feed, is_ordinary, outputs_of, part_of, watch
from vitq.run.whole_metrics import compare_wholes
from vitq.verbs.finish import finish

BATCH = 8


def quantize_inside(
    model: str | nn.Module | LoadedModel,
    images: Any,
    inside: str,
    quantize: partial[QuantizedModel],
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    limit: int,
    task: str | None,
) -> QuantizedPart:
    """Quantize the part of ``model`` at the path ``inside``, and return a module to put in its place.

    ``images`` are those of every verb for a whole that is called with images alone; batches as the whole takes them; or
    a function of the whole that runs it and yields what it gives. ``quantize`` makes the quantized model of a loaded
    part and images; its seed, folder and progress hold for the whole, too. ``metrics.whole`` compares what the whole
    gives with the part quantized and with the original.
    Raises ModelError where the part is not there, or receives more than one batch of images.
    """
    whole, own, name = _whole(model)
    own = own.changed(preprocessing)
    seed, out, progress = (quantize.keywords[option] for option in ("seed", "out", "progress"))
    with Events(console=progress) as events:
        feed, fed_NCHW = _feed(images, own, limit, seed, events)
        received = watch(whole, inside, feed, limit)
        x_NCHW = torch.cat(received.inputs)[:limit]
        events.show(f"{name}: '{inside}' receives {len(x_NCHW)} images {tuple(x_NCHW.shape[1:])}")
        taken = own if fed_NCHW is not None and torch.equal(x_NCHW, fed_NCHW[: len(x_NCHW)]) else None
    part = part_of(whole, inside)
    assert received.call is not None
    loaded = _loaded(part, received, f"{name}.{inside}", taken, task)
    made = quantize(loaded, x_NCHW, limit=len(x_NCHW))
    placed = QuantizedPart(made, received.template)
    placed.images_NCHW = x_NCHW
    _put(whole, inside, placed)
    again = list(outputs_of(whole, _first(feed, len(received.outputs))))
    _put(whole, inside, part)
    own_metrics: dict[str, Any] = {"whole": compare_wholes(received.outputs, again) or None}
    with Events(console=progress) as events:
        if len(again) < len(received.outputs):
            told = (
                f"the whole gave {len(received.outputs)} results with the original part and {len(again)} with the "
                "quantized one, so only these are compared; give images that can be run through twice, as a list"
            )
            events.warn("whole-not-compared", told)
            own_metrics["warnings"] = (*made.metrics.warnings, ("whole-not-compared", told))
        made.artifact = replace(made.artifact, metrics=made.metrics.model_copy(update=own_metrics))
        if out is not None:
            finish(made, Path(out), events)
    return placed


def put_inside(whole: nn.Module, path: str, model: QuantizedModel) -> QuantizedPart:
    """Put a quantized part, as ``vitq.load`` reads it, in its place in ``whole``, and return the module there."""
    part = part_of(whole, path)
    placed = QuantizedPart(model, original=part)
    _put(whole, path, placed)
    return placed


def _whole(model: str | nn.Module | LoadedModel) -> tuple[nn.Module, Preprocessing, str]:
    if isinstance(model, LoadedModel):
        return plain_copy(model.module).float().eval(), model.preprocessing, model.name
    if isinstance(model, nn.Module):
        whole, preprocessing = plain_copy(model), Preprocessing(assumed=True)
    elif isinstance(model, str):
        whole, preprocessing = load_whole(model)
    else:
        raise not_a_model(model)
    whole = whole.float().cpu().eval()
    check_finite(whole, f"'{type(whole).__name__}'")
    return whole, preprocessing, type(whole).__name__


def _feed(
    images: Any, preprocessing: Preprocessing, limit: int, seed: int, events: Events
) -> tuple[Feed, torch.Tensor | None]:
    """Return what runs a whole, and the images where they are those of every verb."""
    if is_generated(images):
        raise ModelError(f"'{images}' images are made for whole models; with inside= give images that the whole takes")
    if is_ordinary(images):
        source = open_images(images, labels=False, limit=limit)
        if source.shape is not None:
            preprocessing = preprocessing.of_tensors(source.shape)
        x_NCHW = draw_calibration(source, preprocessing, limit=limit, seed=seed, warn=events.warn)
        return lambda model: (run_on_images(model, x_BCHW) for x_BCHW in x_NCHW.split(BATCH)), x_NCHW
    if callable(images) and not isinstance(images, nn.Module) and not hasattr(images, "__getitem__"):
        feed: Feed = images
        return feed, None
    try:
        return batches_feed(images), None
    except TypeError as error:
        raise ModelError(
            f"images are a {type(images).__name__}; inside= takes images, batches for the model, or a function that "
            "runs it"
        ) from error


def _first(feed: Feed, count: int) -> Feed:
    """Return the first ``count`` runs of a feed."""

    def some(model: nn.Module) -> Any:
        result = feed(model)
        return (
            (outputs for _, outputs in zip(range(count), result, strict=False))
            if hasattr(result, "__next__")
            else result
        )

    return some


def _loaded(
    part: nn.Module, received: Received, name: str, preprocessing: Preprocessing | None, task: str | None
) -> LoadedModel:
    assert received.call is not None
    module = PartOf(part, received.call).eval()
    source = {"kind": "part", "name": name, "weights": "module", "sha256": state_sha256(module), "num_classes": None}
    shape = received.inputs[0].shape[1:]
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    plain = Preprocessing(input_size=size, mean=(), std=())
    return LoadedModel(module, preprocessing or plain, name, source, None, task)


def _put(whole: nn.Module, path: str, part: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    setattr(whole.get_submodule(owner), leaf, part)

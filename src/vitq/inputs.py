"""What a verb starts from: a model and calibration images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.data import draw_calibration, open_images
from vitq.errors import GraphError
from vitq.events import Events
from vitq.graph import Graph, capture
from vitq.models import LoadedModel, Preprocessing, load_model


def load_source(
    model: str | nn.Module | LoadedModel,
    weights: str | Path | None,
    num_classes: int | None,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
) -> LoadedModel:
    """Load a model by name or folder, or take it as it is; ``preprocessing`` replaces values of its own."""
    loaded = model if isinstance(model, LoadedModel) else load_model(model, weights=weights, num_classes=num_classes)
    if preprocessing is None:
        return loaded
    if isinstance(preprocessing, Mapping):
        preprocessing = Preprocessing.from_dict({**loaded.preprocessing.to_dict(), **preprocessing})
    return replace(loaded, preprocessing=preprocessing)


def capture_checked(loaded: LoadedModel, x_NCHW: torch.Tensor, device: torch.device) -> Graph:
    """Capture the model on ``device``; raise GraphError where the graph does not compute what the model computes."""
    graph = capture(loaded.module, x_NCHW[:2])
    with torch.no_grad():
        expected, got = loaded.module(x_NCHW[:2]), graph(x_NCHW[:2])
    if not torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise GraphError(
            f"the captured graph of {loaded.name} does not compute what the model computes; please report it"
        )
    graph.to(device)
    return graph


def draw_images(
    loaded: LoadedModel, images: Any, take_size: bool, limit: int, views: int, seed: int, events: Events
) -> tuple[LoadedModel, torch.Tensor]:
    """Draw calibration images x_NCHW with a seed and show how they are preprocessed.

    With ``take_size`` images that are preprocessed already set the model's input size.
    """
    source = open_images(images, labels=False, limit=limit)
    if take_size and source.shape is not None:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.of_tensors(source.shape))
    events.show(f"{loaded.name}: {loaded.preprocessing.describe()}")
    x_NCHW = draw_calibration(source, loaded.preprocessing, limit=limit, views=views, seed=seed, warn=events.warn)
    return loaded, x_NCHW

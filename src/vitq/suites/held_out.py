"""Calibration images that no recipe of a suite is given, and how near a quantized model stays to its original on them.

Settings are chosen by these, so that the validation images are only read to report.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from vitq.activations import forward_many
from vitq.data import ImageSource, draw_calibration, open_images
from vitq.graph import Graph
from vitq.model import QuantizedModel
from vitq.models import LoadedModel, settle
from vitq.run.events import Events
from vitq.run.inputs import capture_checked
from vitq.tasks import task_for
from vitq.tasks.distances import relative_square

SEED = 0
"""Of the draw, whatever a cell's seed is, so that all cells are judged on the same images."""


def apart(images: str, count: int) -> tuple[ImageSource, ImageSource]:
    """Return the images that recipes may draw from, and the ``count`` others that are held out."""
    source = open_images(images, labels=False)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(SEED)).tolist()
    held, left = (tuple(source.items[index] for index in sorted(part)) for part in (order[:count], order[count:]))
    return replace(source, items=left), replace(source, items=held)


@torch.no_grad()
def judge(model: QuantizedModel, loaded: LoadedModel, images: ImageSource) -> dict[str, Any]:
    """Return how far the outputs are from those of ``loaded``, not quantized, on ``images``.

    ``distance`` is the task's (KL of classes), ``feature_error`` the squared error of the penultimate feature relative
    to its energy; beside them stands how much the outputs agree.
    """
    device = model.device
    with Events(None, console=False) as events:
        x_NCHW = draw_calibration(images, loaded.preprocessing, limit=len(images), warn=events.warn)
        teacher = capture_checked(settle(loaded, x_NCHW, events.warn), x_NCHW, device)
    (mine_N, mine), (theirs_N, theirs) = (_ends(graph, x_NCHW, device) for graph in (model.graph, teacher))
    task = task_for({name: tuple(y.shape[1:]) for name, y in theirs.items()}, loaded.task)
    return {
        "images": len(x_NCHW),
        "distance": float(task.distance(mine, theirs)),
        "feature_error": float(relative_square(mine_N, theirs_N)),
        **task.agreement(task.summary(mine), task.summary(theirs)),
    }


def _ends(graph: Graph, x_NCHW: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """Return the penultimate feature and the outputs by name."""
    nodes = graph.slicing.outputs
    module = graph.segment(graph.cuts[0], graph.cuts[-1], (graph.feature, *nodes.values()))
    _, feature_N, *outputs = forward_many(module, x_NCHW, device)
    return feature_N, dict(zip(nodes, outputs, strict=True))

"""Calibration images that no recipe of a suite is given, and how near a quantized model stays to its original on them.

Settings are chosen by these, so that the validation images are only read to report.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from vitq.activations import forward_many
from vitq.data import ImageSource, draw_calibration, open_images
from vitq.graph import Graph
from vitq.graph.outputs import Outputs
from vitq.model import QuantizedModel
from vitq.models import LoadedModel, settle
from vitq.run.events import Events
from vitq.run.inputs import capture_checked
from vitq.tasks import Task, task_for
from vitq.tasks.distances import relative_square

SEED = 0
"""Of the draw, whatever a cell's seed is, so that all cells are judged on the same images."""
MEASURES = ("distance", "feature_error")
"""What every task has; how much outputs agree is called as the task calls it."""


@dataclass(frozen=True)
class Ends:
    """What a model gives for N images of (H, W) = ``size``: its penultimate feature (N, …), and its outputs by name."""

    feature_N: torch.Tensor
    outputs: Outputs
    size: tuple[int, int]


def apart(images: str, count: int) -> tuple[ImageSource, ImageSource]:
    """Return the images that recipes may draw from, and the ``count`` others that are held out.

    Raises DataError where there are no images. Source: vitq.
    """
    source = open_images(images, labels=False)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(SEED)).tolist()
    held, left = (tuple(source.items[index] for index in sorted(part)) for part in (order[:count], order[count:]))
    return replace(source, items=left), replace(source, items=held)


def judge(model: QuantizedModel, loaded: LoadedModel, images: ImageSource) -> dict[str, Any]:
    """Return how near a model stays to ``loaded``, which is not quantized, as ``beside`` does, and of how many images.

    Raises DataError or CalibrationError for images that cannot be used, GraphError as ``capture_checked`` does.
    """
    with Events(None, console=False) as events:
        x_NCHW = draw_calibration(images, loaded.preprocessing, limit=len(images), warn=events.warn)
        teacher = capture_checked(settle(loaded, x_NCHW, events.warn), x_NCHW, model.device)
    mine, theirs = (ends(graph, x_NCHW, model.device) for graph in (model.graph, teacher))
    return {"images": len(x_NCHW), **beside(mine, theirs, task_for(teacher.output_shapes, loaded.task))}


@torch.no_grad()
def ends(graph: Graph, x_NCHW: torch.Tensor, device: torch.device) -> Ends:
    """Run a graph over all images, in chunks on ``device``."""
    nodes = graph.slicing.outputs
    module = graph.segment(graph.cuts[0], graph.cuts[-1], (graph.feature, *nodes.values()))
    _, feature_N, *outputs = forward_many(module, x_NCHW, device)
    return Ends(feature_N, dict(zip(nodes, outputs, strict=True)), (x_NCHW.shape[-2], x_NCHW.shape[-1]))


def beside(mine: Ends, theirs: Ends, task: Task) -> dict[str, float]:
    """Return how far two models are apart on the same images, and how much their outputs agree. Source: vitq.

    ``distance`` is the task's, of classes KL(theirs || mine); ``feature_error`` is |f - g|² / |g|² of the features.
    """
    return {
        "distance": float(task.distance(mine.outputs, theirs.outputs)),
        "feature_error": float(relative_square(mine.feature_N, theirs.feature_N)),
        **task.agreement(*(task.summary_at(one.outputs, one.size) for one in (mine, theirs))),
    }

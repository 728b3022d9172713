"""What scripts measure by that are no suite: the real models, their images, and held-out calibration images."""

import argparse
from pathlib import Path

import torch

from vitq.activations import forward_all
from vitq.data import load_labelled, open_images
from vitq.graph import Graph
from vitq.models import LoadedModel
from vitq.run.events import Events
from vitq.run.inputs import draw_images, load_source
from vitq.run.run import Run
from vitq.tasks.distances import divergence, relative_square

MODELS = ("deit_tiny_patch16_224", "vit_tiny_patch16_224")
HELD_OUT = 200


def images(model: str, chosen: argparse.Namespace) -> tuple[LoadedModel, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the model, all calibration images in the order of seed 0, validation images and their labels."""
    source = load_source(model, chosen.data / "weights" / f"{model}.safetensors", None, {"crop_pct": 0.875})
    kept: Path = chosen.cache / f"{model}.pt"
    if not kept.exists():
        with Events(None, console=False) as events:
            _, x_NCHW = draw_images(source, chosen.data / "imagenet-calibration", False, 1000, 1, 0, events)
        labelled = open_images(chosen.data / "imagenet-validation")
        batches = list(load_labelled(labelled, source.preprocessing, None, batch_size=100))
        parts = (x_NCHW, *(torch.cat(part) for part in zip(*batches, strict=True)))
        chosen.cache.mkdir(parents=True, exist_ok=True)
        torch.save(parts, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    x_NCHW, x_val, labels = torch.load(kept, mmap=True)
    return source, x_NCHW, x_val, labels


@torch.no_grad()
def ends(graph: Graph, x_NCHW: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the final feature and the logits of a model."""
    first, feature, last = graph.cuts[0], graph.feature, graph.cuts[-1]
    middle = forward_all(graph.segment(first, feature), x_NCHW, device)
    return middle, forward_all(graph.segment(feature, last), middle, device)


def judge(run: Run, x_NCHW: torch.Tensor, like: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """Return KL to floating point, whose ``ends`` are ``like``, and the relative squared error of the final feature."""
    feature_NC, logits_NK = ends(run.student, x_NCHW, run.device)
    like_NC, like_NK = like
    kl, agreement = divergence(logits_NK, like_NK), (logits_NK.argmax(-1) == like_NK.argmax(-1)).float().mean()
    error = relative_square(feature_NC, like_NC)
    return {"kl": float(kl), "agreement": 100 * float(agreement), "feature_error": float(error)}

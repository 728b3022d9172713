"""What scripts measure by that are no suite: the real models, their images, and held-out calibration images."""

import argparse
from pathlib import Path

import torch

from vitq.data import load_labelled, open_images
from vitq.models import LoadedModel
from vitq.run.events import Events
from vitq.run.inputs import draw_images, load_source
from vitq.run.run import Run
from vitq.suites.held_out import Ends, beside, ends

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


def judge(run: Run, x_NCHW: torch.Tensor, like: Ends) -> dict[str, float]:
    """Return KL to floating point, whose ``ends`` are ``like``, agreement in %, and the error of the final feature."""
    found = beside(ends(run.student, x_NCHW, run.device), like, run.task)
    return {"kl": found.pop("distance"), **found}

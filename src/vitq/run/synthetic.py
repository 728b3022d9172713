"""Calibration without data: images that a model alone makes (PSAQ-ViT), kept in a cache, or noise.

Source: PSAQ-ViT (ECCV 2022, arXiv 2203.02250): from noise, images become such that tokens behind the attentions
resemble each other as differently as possible, that a classifier sees a random class in them, and that neighbouring
pixels differ as in photographs. As its code: jitter, flips, Adam, a warm-up and a cosine; 200 steps instead of 1,000,
all tokens, and 1/f noise to begin with are vitq's choice.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from vitq._version import __version__
from vitq.data.noise import GENERATED, NOISE, SYNTHETIC, noise_images, pixel_bounds, roughness, similarity_entropy
from vitq.errors import ModelError
from vitq.graph import Graph, Role, capture
from vitq.graph.outputs import as_outputs
from vitq.models import LoadedModel, settle
from vitq.models.weights import state_sha256
from vitq.run.events import Events

MOST = {NOISE: 256, SYNTHETIC: 32}
"""How many images are made at most: 32 is what PSAQ-ViT makes and what calibration takes."""
GROUP = 8
"""Synthetic images that are made together, and kept once they are done."""
STEPS, WARM_UP, RATE, BETAS = 200, 0.2, 0.2, (0.5, 0.9)
ROUGH, ROUGH_WEIGHT = (0.285, 0.342), 110.0
"""A step's root mean square between neighbours (four directions: 4 of these), and its part in the loss: PSAQ-ViT's
numbers for 32 images of 224 x 224."""
FOLDER = "VITQ_CACHE"
"""The environment's name for where finished images are kept."""

Objective = Callable[[Tensor, int], Tensor]
"""The loss of a group of images, by its number."""


def is_generated(images: Any) -> bool:
    """Whether images are to be made, not read; a folder of such a name is a path by now."""
    return isinstance(images, str) and images in GENERATED


def generated_images(
    loaded: LoadedModel, kind: str, limit: int, views: int, seed: int, device: torch.device, events: Events
) -> Tensor:
    """Return ``limit`` images x_NCHW of a kind of ``GENERATED``, at most ``MOST``; the same for a seed.

    Finished groups of synthetic images are read from the cache. Raises ModelError where ``loaded`` has no attention.
    """
    count = min(limit, MOST[kind])
    if views > 1:
        events.warn("no-augmentation", f"images of '{kind}' have no other views; each is used once")
    if kind == NOISE:
        events.warn(
            "noise-images",
            "calibrated on noise, which no model was trained for: the last resort where there are no images. "
            "'synthetic' makes better ones from the model, and a few dozen real ones are better still",
        )
        return noise_images(loaded.preprocessing, count, _generator(seed, NOISE))
    events.warn("synthetic-images", "calibrated on images that were made from the model alone; real ones are better")
    folder = _cache(loaded, seed)
    groups = [min(GROUP, count - first) for first in range(0, count, GROUP)]
    known = {number: x for number in range(len(groups)) if (x := _read(folder, number, loaded)) is not None}
    objective: Objective | None = None
    with events.task("synthetic images", len(groups)) as task:
        for number in range(len(groups)):
            if number not in known:
                objective = objective or _objective(loaded, seed, device)
                known[number] = _made(loaded, objective, number, seed, device, events)
                _keep(folder, number, known[number], events)
            task.advance()
    return torch.cat([known[number][:size] for number, size in enumerate(groups)])


def _objective(loaded: LoadedModel, seed: int, device: torch.device) -> Objective:
    """Return what images are made for; ModelError where the model has no attention."""
    x_NCHW = noise_images(loaded.preprocessing, 2, _generator(seed, "example"))
    settled = settle(loaded, x_NCHW, lambda *_: None)
    graph = capture(settled.module, x_NCHW)
    graph.to(device)
    attentions = _attentions(graph)
    if not attentions:
        raise ModelError(
            f"{loaded.name} has no attention, whose tokens 'synthetic' images are made for; give images, or 'noise'"
        )
    outputs = list(graph.outputs)
    logits = outputs[0] if settled.task in (None, "classes") and len(outputs) == 1 else None
    logits = logits if logits is not None and len(graph.output_shapes[logits]) == 1 else None
    run = _with_taps(graph, attentions)

    def loss(x_BCHW: Tensor, number: int) -> Tensor:
        given, taps = run(x_BCHW)
        total = -sum((similarity_entropy(_tokens(tap)) for tap in taps), torch.zeros((), device=x_BCHW.device))
        if logits is not None:
            y_BK = as_outputs(given)[logits]
            classes_B = torch.randint(y_BK.shape[1], (len(y_BK),), generator=_generator(seed, "classes", number))
            total = total + torch.nn.functional.cross_entropy(y_BK, classes_B.to(y_BK.device))
        return total

    return loss


def _made(
    loaded: LoadedModel, objective: Objective, number: int, seed: int, device: torch.device, events: Events
) -> Tensor:
    """Return one group of images."""
    generator = _generator(seed, SYNTHETIC, number)
    x_NCHW = noise_images(loaded.preprocessing, GROUP, generator).to(device).requires_grad_(True)
    low, high = (end.to(device) for end in pixel_bounds(loaded.preprocessing))
    optimizer = torch.optim.Adam([x_NCHW], RATE, BETAS)
    rough = 4 * (ROUGH[0] + (ROUGH[1] - ROUGH[0]) * float(torch.rand((), generator=generator)))
    most = max(min(x_NCHW.shape[2:]) // 8, 1)
    with events.task("image group", STEPS) as task, torch.enable_grad():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = _rate(step)
            down, right, mirrored = (int(torch.randint(n, (), generator=generator)) for n in (2 * most, 2 * most, 2))
            seen = torch.roll(x_NCHW, (down - most, right - most), (2, 3))
            seen = seen.flip(3) if mirrored else seen
            loss = objective(seen, number) + ROUGH_WEIGHT * (roughness(seen) - rough).abs().mean()
            (x_NCHW.grad,) = torch.autograd.grad(loss, [x_NCHW])
            optimizer.step()
            with torch.no_grad():
                x_NCHW.copy_(torch.minimum(torch.maximum(x_NCHW, low), high))
            task.advance(loss=float(loss.detach()))
    return x_NCHW.detach().cpu()


def _attentions(graph: Graph) -> list[str]:
    """Return the products that attentions give."""
    return [c for site in graph.sites.values() if site.role is Role.PROBABILITIES for c in site.consumers]


def _with_taps(graph: Graph, nodes: list[str]) -> Callable[[Tensor], tuple[Any, list[Tensor]]]:
    """Return the graph as a function that gives its outputs and the tensors of ``nodes``."""
    copied, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    result = copied.graph_copy(graph.module.graph, copies)
    by_name = {node.name: copy for node, copy in copies.items()}
    copied.output((result, [by_name[name] for name in nodes]))
    module = fx.GraphModule(graph.module, copied)
    return lambda x_BCHW: module(x_BCHW)


def _tokens(tap: Tensor) -> Tensor:
    """Return an attention's result as tokens: the mean of its heads, (…, H, T, D) as (B, T, D)."""
    heads = tap if tap.ndim < 4 else tap.mean(-3)
    return heads.flatten(0, -3)


def _rate(step: int) -> float:
    warm = max(int(WARM_UP * STEPS), 1)
    if step < warm:
        return RATE * (step + 1) / warm
    return 0.5 * RATE * (1 + math.cos(math.pi * (step - warm) / max(STEPS - warm, 1)))


def _cache(loaded: LoadedModel, seed: int) -> Path:
    """Return the folder of the images of this model, made in this way."""
    made = {
        "model": loaded.source.get("sha256") or state_sha256(loaded.module),
        "preprocessing": loaded.preprocessing.to_dict(),
        "task": loaded.task,
        "settings": [STEPS, WARM_UP, RATE, BETAS, ROUGH, ROUGH_WEIGHT, GROUP],
        "seed": seed,
        "versions": [__version__, torch.__version__],
    }
    name = hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:24]
    base = os.environ.get(FOLDER) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitq"
    return Path(base) / SYNTHETIC / name


def _read(folder: Path, number: int, loaded: LoadedModel) -> Tensor | None:
    """Return a group that is kept; None where it is not there, or not what was kept."""
    try:
        x_NCHW = load_file(folder / f"{number}.safetensors")["images"]
    except Exception:  # a damaged file ends in any type
        return None
    right = tuple(x_NCHW.shape) == (GROUP, *loaded.preprocessing.input_size) and x_NCHW.dtype is torch.float32
    return x_NCHW if right and bool(torch.isfinite(x_NCHW).all()) else None


def _keep(folder: Path, number: int, x_NCHW: Tensor, events: Events) -> None:
    """Keep a group, whole or not at all; without room the run goes on."""
    draft = folder / f".{number}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"images": x_NCHW.contiguous()}, draft)
        draft.replace(folder / f"{number}.safetensors")
    except Exception as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        events.warn("no-cache", f"cannot keep synthetic images in {folder}: {error}; a next run makes them anew")


def _generator(seed: int, *purpose: str | int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

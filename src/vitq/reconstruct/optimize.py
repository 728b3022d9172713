"""The optimization of one segment: its steps, with activations dropped and curvature renewed as settings ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from vitq.activations import first_output, forward_all
from vitq.errors import RecipeError
from vitq.quantizers import DropMask, Quantizer
from vitq.reconstruct.data import Data
from vitq.reconstruct.loop import POOL, Loop
from vitq.reconstruct.objective.curvature import NONE, make_estimator
from vitq.reconstruct.objective.fusion import Fusion
from vitq.reconstruct.objective.gradients import Gradients
from vitq.reconstruct.replay import Replay
from vitq.reconstruct.segment import TrainingSegment
from vitq.reconstruct.settings import Settings
from vitq.reconstruct.views import Supply
from vitq.run.events import Events

PROBES = 4
"""Batches on which gradients are balanced."""
EVERY = 20
"""Training steps between two losses that are kept."""


@dataclass(frozen=True)
class Optimized:
    """The moving average of what was learnt, where it is kept, and the loss at every ``EVERY``-th training step."""

    averaged: list[torch.Tensor] | None = None
    losses: tuple[float, ...] = ()


def optimize(
    segment: TrainingSegment,
    data: Data,
    fusion: Fusion,
    settings: Settings,
    device: torch.device,
    generator: torch.Generator,
    events: Events,
    supply: Supply | None = None,
) -> Optimized:
    """Train the variables of ``segment``; their moving average is kept where ``settings.evaluation`` asks for one.

    Everything that differs from step to step is drawn before the first one, or before those that share a ``supply`` of
    views, and lies on ``device``, so that a GPU can replay the step (see ``Replay``) where it holds the data too.
    """
    if not segment.variables.groups:
        return Optimized()
    losses: list[float] = []
    random = generator if device.type == "cpu" else _on_device(generator, device)
    with _dropping(segment, settings, random), events.task(segment.span.name, settings.steps) as task:
        loop = Loop(segment, data, fusion, settings, device, generator, random)
        resident = device if data.target.device.type == device.type else torch.device("cpu")
        step = Replay(loop.step, resident, [random])
        objective = settings.objective
        refresh = max(settings.steps // objective.curvature_refreshes, 1)
        estimate = None if objective.curvature == NONE else make_estimator(objective.curvature)
        supplied = 0
        for done in range(settings.steps):
            if supply is not None and done == supplied:
                supplied += supply.steps(settings.batch, settings.steps - done)
                loop.refill(*supply.draw(settings.batch, supplied - done, generator))
                step.again()
            if estimate is not None and done % refresh == 0:
                loop.curvature = estimate(_gradients(segment, data, settings, device, generator))
                if supply is not None and len(loop.curvature.diagonal_N) > 1:
                    raise RecipeError(
                        f"curvature '{objective.curvature}' is one for each image, and views are other images: take "
                        "another curvature, or no views"
                    )
                fusion.rescale()
                step.again()
            if fusion.balance == "gradient" and not fusion.first:
                left = (settings.steps if supply is None else supplied) - done  # rows of later steps are not drawn yet
                loop.probe(min(PROBES, left))
            loss = step()
            if not loop.learns:
                events.warn("no-term", f"no term of the objective sees what '{segment.span.name}' learns: it stays")
                return Optimized()
            if done % EVERY:
                task.advance(1)
                continue
            losses.append(float(f"{float(loss):.4g}"))
            task.advance(1, loss=float(loss))
    return Optimized(loop.average(), tuple(losses))


def _on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def _gradients(
    segment: TrainingSegment, data: Data, settings: Settings, device: torch.device, generator: torch.Generator
) -> Gradients:
    """Collect what the curvature is estimated from; per-image estimates need every training image."""
    assert data.outputs is not None and segment.to_outputs is not None
    objective = settings.objective
    images = data.train if objective.curvature == "fisher" else min(objective.curvature_images, data.train)
    student = first_output(segment.student)
    return Gradients(
        segment.to_outputs,
        data.target[:images].to(device).float(),
        lambda: forward_all(student, data.x_student[:images].float(), device).to(device),
        {name: data.outputs[name][:images].to(device) for name in segment.to_outputs.names},
        objective.temperature,
        generator,
        settings.bfloat16,
        segment.task,
    )


@contextmanager
def _dropping(segment: TrainingSegment, settings: Settings, generator: torch.Generator) -> Iterator[None]:
    """QDrop: while training, leave random elements of every quantized activation in floating point."""
    if settings.noise.drop_activations <= 0:
        yield
        return
    mask = DropMask(settings.noise.drop_activations, POOL, generator)
    weights = set(segment.variables.weight_targets)
    activations = [m for n, m in segment.student.named_modules() if isinstance(m, Quantizer) and n not in weights]
    for quantizer in activations:
        quantizer.drop = mask
    try:
        yield
    finally:
        for quantizer in activations:
            quantizer.drop = None

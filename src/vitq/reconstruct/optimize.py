"""The optimization of one segment: Adam with cosine, random dropping, curvature, moving averages."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from vitq.events import Events
from vitq.quantizers import DropMask, Quantizer
from vitq.reconstruct.activations import first_output, forward_all
from vitq.reconstruct.curvature import Weigh, make_estimator
from vitq.reconstruct.gradients import Gradients
from vitq.reconstruct.objectives import Fusion
from vitq.reconstruct.rounding import rectified_sigmoid, rounding_penalty
from vitq.reconstruct.segment import TrainingSegment

POOL = 1 << 16
"""First size of a pool of random masks; it grows to twice the largest tensor."""


@dataclass(frozen=True)
class Data:
    """Inputs and targets of one segment, one row per image, training images before held-out ones."""

    x_student: torch.Tensor
    x_teacher: torch.Tensor
    target: torch.Tensor
    goal: torch.Tensor | None
    logits_NK: torch.Tensor | None
    train: int

    def held_out(self) -> "Data":
        """Return the held-out images alone (all images where none are held out)."""
        start = self.train if self.train < len(self.target) else 0
        goal = None if self.goal is None else self.goal[start:]
        return Data(self.x_student[start:], self.x_teacher[start:], self.target[start:], goal, None, 0)


@dataclass(frozen=True)
class Settings:
    """How one segment is trained; see the reconstruct step for meanings."""

    steps: int
    batch: int
    global_batch: int
    local_batch: int
    drop_activations: float
    mix_inputs: float
    rounding_weight: float
    rounding_warmup: float
    temperature: float
    weigh: Weigh
    weigh_images: int
    refreshes: int
    average: float
    bfloat16: bool


def optimize(
    segment: TrainingSegment,
    data: Data,
    fusion: Fusion,
    settings: Settings,
    device: torch.device,
    generator: torch.Generator,
    events: Events,
) -> list[torch.Tensor] | None:
    """Train the variables of ``segment``; return their moving average where ``settings.average`` asks for one."""
    groups = segment.variables.groups
    if not groups:
        return None
    optimizer = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(settings.steps))
    choose = DropMask(1 - settings.mix_inputs, POOL, generator) if settings.mix_inputs > 0 else None
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16)
    estimate = None if settings.weigh == "none" else make_estimator(settings.weigh)
    refresh, curvature = max(settings.steps // settings.refreshes, 1), None
    parameters = segment.variables.seen()
    averaged = [p.detach().clone() for p in parameters] if settings.average > 0 else None
    with _dropping(segment, settings, generator), events.task(segment.span.name, settings.steps) as task:
        for step in range(settings.steps):
            if estimate is not None and step % refresh == 0:
                curvature = estimate(_gradients(segment, data, settings, device, generator))
            chosen = torch.randint(data.train, (settings.batch,), generator=generator)
            x, x_teacher, target = (t[chosen].to(device).float() for t in (data.x_student, data.x_teacher, data.target))
            goal = None if data.goal is None else data.goal[chosen[: settings.global_batch]].to(device).float()
            mixed = x if choose is None else torch.where(choose(x), x_teacher, x)
            with autocast:
                batch = segment.batch(mixed, x_teacher, target, goal, settings.local_batch)
                loss = fusion(batch if curvature is None else replace(batch, curvature=curvature.of(chosen)))
            (loss + _penalty(segment, settings, step)).backward()
            segment.variables.step(optimizer)
            schedule.step()
            if averaged is not None:
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, parameters, 1 - settings.average)
            if step % 20 == 0:
                task.advance(0, loss=float(loss.detach()))
            task.advance()
    return averaged


def _gradients(
    segment: TrainingSegment, data: Data, settings: Settings, device: torch.device, generator: torch.Generator
) -> Gradients:
    """Collect what the curvature is estimated from; per-image estimates need every training image."""
    assert data.logits_NK is not None and segment.to_logits is not None
    images = data.train if settings.weigh == "fisher" else min(settings.weigh_images, data.train)
    student = first_output(segment.student)
    return Gradients(
        segment.to_logits,
        data.target[:images].to(device).float(),
        lambda: forward_all(student, data.x_student[:images].float(), device).to(device),
        data.logits_NK[:images].to(device),
        settings.temperature,
        generator,
        settings.bfloat16,
    )


def _cosine(steps: int) -> Callable[[int], float]:
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def _penalty(segment: TrainingSegment, settings: Settings, step: int) -> torch.Tensor | float:
    """AdaRound's regularizer: off during warm-up, then β from 20 to 2."""
    progress = (step / settings.steps - settings.rounding_warmup) / (1 - settings.rounding_warmup)
    if not segment.variables.roundings or progress < 0:
        return 0.0
    beta = 20 - 18 * progress
    penalties = [rounding_penalty(rectified_sigmoid(v), beta) for v in segment.variables.penalty_inputs()]
    return settings.rounding_weight * torch.stack(penalties).sum()


@contextmanager
def _dropping(segment: TrainingSegment, settings: Settings, generator: torch.Generator) -> Iterator[None]:
    """QDrop: while training, leave random elements of every quantized activation in floating point."""
    if settings.drop_activations <= 0:
        yield
        return
    mask = DropMask(settings.drop_activations, POOL, generator)
    weights = set(segment.variables.weight_targets)
    activations = [m for n, m in segment.student.named_modules() if isinstance(m, Quantizer) and n not in weights]
    for quantizer in activations:
        quantizer.drop = mask
    try:
        yield
    finally:
        for quantizer in activations:
            quantizer.drop = None

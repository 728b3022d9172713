"""The optimization of one segment: Adam with cosine, random dropping, rollback on held-out images."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from vitq.events import Events
from vitq.quantizers import DropMask, Quantizer
from vitq.reconstruct.activations import forward_all
from vitq.reconstruct.objectives import Fusion, relative_square
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
    train: int

    def held_out(self) -> "Data":
        """Return the held-out images alone (all images where none are held out)."""
        start = self.train if self.train < len(self.target) else 0
        goal = None if self.goal is None else self.goal[start:]
        return Data(self.x_student[start:], self.x_teacher[start:], self.target[start:], goal, 0)


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
    bfloat16: bool


@dataclass(frozen=True)
class Outcome:
    """Held-out errors of one segment: output and goal, each relative to the teacher's energy."""

    before: float
    after: float
    goal_before: float
    goal_after: float
    rolled_back: bool
    seconds: float


def train(
    segment: TrainingSegment,
    data: Data,
    fusion: Fusion,
    settings: Settings,
    device: torch.device,
    generator: torch.Generator,
    events: Events,
) -> Outcome:
    """Train the variables of ``segment`` and keep the result only if held-out images agree that it is better."""
    began = time.monotonic()
    variables = segment.variables
    initial = variables.snapshot()
    before = evaluate(segment, data.held_out(), device, settings.bfloat16)
    variables.stand_in(segment.student)
    _optimize(segment, data, fusion, settings, device, generator, events)
    variables.commit(segment.student)
    after = evaluate(segment, data.held_out(), device, settings.bfloat16)
    better = _score(after, before) <= _score(before, before)  # False for NaN
    if not better:
        variables.restore(initial)
        events.warn(
            "rolled-back",
            f"segment '{segment.span.name}' was worse on held-out images after training "
            f"(error {before[0]:.4g} -> {after[0]:.4g}); its values from before are kept",
        )
    kept = after if better else before
    return Outcome(before[0], kept[0], before[1], kept[1], not better, time.monotonic() - began)


@torch.no_grad()
def evaluate(segment: TrainingSegment, data: Data, device: torch.device, bfloat16: bool) -> tuple[float, float]:
    """Return the relative squared errors of the segment's output and of the goal (0 where it is not reachable).

    ``bfloat16`` runs the frozen suffix as training does.
    """
    x, target = data.x_student, data.target
    whole = segment.student
    tap = segment.supervision.tap

    def forward(chunk: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor | tuple[torch.Tensor, ...] = whole(chunk)
        return result[0] if isinstance(result, tuple) else result

    output = forward_all(forward, x, device)
    error = float(relative_square(output, target))
    if data.goal is None or not segment.supervision.reachable:
        return error, 0.0
    if segment.supervision.suffix is not None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            goal = forward_all(segment.supervision.suffix, output, device)
    elif tap is not None:
        goal = forward_all(lambda chunk: whole(chunk)[-1], x, device)
    else:
        goal = output
    return error, float(relative_square(goal, data.goal))


def _score(errors: tuple[float, float], reference: tuple[float, float]) -> float:
    return sum(e / max(r, 1e-12) for e, r in zip(errors, reference, strict=True))


def _optimize(
    segment: TrainingSegment,
    data: Data,
    fusion: Fusion,
    settings: Settings,
    device: torch.device,
    generator: torch.Generator,
    events: Events,
) -> None:
    groups = segment.variables.groups
    if not groups:
        return
    optimizer = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(settings.steps))
    choose = DropMask(1 - settings.mix_inputs, POOL, generator) if settings.mix_inputs > 0 else None
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16)
    with _dropping(segment, settings, generator), events.task(segment.span.name, settings.steps) as task:
        for step in range(settings.steps):
            chosen = torch.randint(data.train, (settings.batch,), generator=generator)
            x, x_teacher, target = (t[chosen].to(device).float() for t in (data.x_student, data.x_teacher, data.target))
            goal = None if data.goal is None else data.goal[chosen[: settings.global_batch]].to(device).float()
            mixed = x if choose is None else torch.where(choose(x), x_teacher, x)
            with autocast:
                loss = fusion(segment.batch(mixed, x_teacher, target, goal, settings.local_batch))
            (loss + _penalty(segment, settings, step)).backward()
            segment.variables.step(optimizer)
            schedule.step()
            if step % 20 == 0:
                task.advance(0, loss=float(loss.detach()))
            task.advance()


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

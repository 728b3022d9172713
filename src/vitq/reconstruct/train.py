"""The training of one segment, evaluated on held-out images: what is kept, and what is rolled back."""

import time
from dataclasses import dataclass

import torch

from vitq.activations import forward_all, forward_many, forward_outputs, outputs
from vitq.graph.outputs import Named, as_outputs
from vitq.reconstruct.data import Data
from vitq.reconstruct.objective.fusion import Fusion
from vitq.reconstruct.objective.terms import Goal
from vitq.reconstruct.optimize import optimize
from vitq.reconstruct.segment import TrainingSegment
from vitq.reconstruct.settings import Settings
from vitq.reconstruct.views import Supply
from vitq.run.events import Events
from vitq.tasks import Task
from vitq.tasks.distances import relative_square


@dataclass(frozen=True)
class Outcome:
    """Held-out errors of one segment: output and goal, each relative to the teacher's energy."""

    before: float
    after: float
    goal_before: float
    goal_after: float
    rolled_back: bool
    seconds: float
    losses: tuple[float, ...] = ()
    """At every 20th training step."""


def train(
    segment: TrainingSegment,
    data: Data,
    fusion: Fusion,
    settings: Settings,
    device: torch.device,
    generator: torch.Generator,
    events: Events,
    supply: Supply | None = None,
) -> Outcome:
    """Train the variables of ``segment`` and keep the result only if held-out images agree that it is better."""
    began = time.monotonic()
    variables, score = segment.variables, _own_and_end if settings.evaluation.by == "both" else _end
    initial = variables.snapshot()
    before = evaluate(segment, data.held_out(), device, settings.bfloat16)
    variables.stand_in(segment.student)
    optimized = optimize(segment, data, fusion, settings, device, generator, events, supply)
    variables.commit(segment.student)
    after = evaluate(segment, data.held_out(), device, settings.bfloat16)
    if optimized.averaged is not None:
        final = variables.snapshot()
        variables.load(optimized.averaged)
        variables.commit(segment.student)
        smoother = evaluate(segment, data.held_out(), device, settings.bfloat16)
        if score(smoother, before) <= score(after, before):
            after = smoother
        else:
            variables.restore(final)
    better = score(after, before) <= score(before, before)  # False for NaN
    if not better:
        variables.restore(initial)
        end = f", at the model's end {before[1]:.4g} -> {after[1]:.4g}" if before[1] > 0 else ""
        events.warn(
            "rolled-back",
            f"segment '{segment.span.name}' was worse on held-out images after training "
            f"(error {before[0]:.4g} -> {after[0]:.4g}{end}); its values from before are kept",
        )
    kept = after if better else before
    seconds = time.monotonic() - began
    return Outcome(before[0], kept[0], before[1], kept[1], not better, seconds, optimized.losses)


@torch.no_grad()
def evaluate(segment: TrainingSegment, data: Data, device: torch.device, bfloat16: bool) -> tuple[float, float]:
    """Return the relative squared errors of the segment's output and of the goal (0 where it is not reachable).

    ``bfloat16`` runs the frozen suffix as training does.
    """
    x, beside = data.x_student, 1 + len(data.sides)
    tapped = data.goal is not None and segment.supervision.tap is not None

    def ends(chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = outputs(segment.student(chunk))
        return tuple(part.to(x.dtype) for part in (*parts[:beside], *(parts[-1:] if tapped else ())))

    output, *others = forward_many(ends, x, device)
    pairs = zip((output, *others[: len(data.sides)]), (data.target, *data.sides), strict=True)
    error = sum(float(relative_square(y, target)) for y, target in pairs) / beside
    if data.goal is None or not segment.supervision.reachable:
        return error, 0.0
    if segment.supervision.suffix is None:
        goal = others[-1] if tapped else output
        return error, _error(segment.task, goal, data.goal)
    suffix = segment.supervision.suffix
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        if isinstance(suffix, Named):
            return error, _error(segment.task, forward_outputs(suffix, output, device), data.goal)
        return error, _error(segment.task, forward_all(suffix, output, device), data.goal)


def _error(task: Task, goal: Goal, reference: Goal) -> float:
    """Return the squared error of a feature, or of outputs by name, relative to the teacher's energy."""
    if isinstance(reference, torch.Tensor):
        assert isinstance(goal, torch.Tensor)
        return float(relative_square(goal, reference))
    return float(task.error(as_outputs(goal), reference))


def _own_and_end(errors: tuple[float, float], reference: tuple[float, float]) -> float:
    return sum(e / max(r, 1e-12) for e, r in zip(errors, reference, strict=True))


def _end(errors: tuple[float, float], reference: tuple[float, float]) -> float:
    """Return the error at the model's end, or where that is not reached the segment's own."""
    return errors[1] if reference[1] > 0 else errors[0]

"""The training of one segment, evaluated on held-out images: what is kept, and what is rolled back."""

import time
from dataclasses import dataclass

import torch

from vitq.activations import forward_all, forward_many, outputs
from vitq.reconstruct.data import Data
from vitq.reconstruct.objective.distances import relative_square
from vitq.reconstruct.objective.terms import Fusion
from vitq.reconstruct.optimize import optimize
from vitq.reconstruct.segment import TrainingSegment
from vitq.reconstruct.settings import Settings
from vitq.run.events import Events


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
    averaged = optimize(segment, data, fusion, settings, device, generator, events)
    variables.commit(segment.student)
    after = evaluate(segment, data.held_out(), device, settings.bfloat16)
    if averaged is not None:
        final = variables.snapshot()
        variables.load(averaged)
        variables.commit(segment.student)
        smoother = evaluate(segment, data.held_out(), device, settings.bfloat16)
        if _score(smoother, before) <= _score(after, before):
            after = smoother
        else:
            variables.restore(final)
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
    x = data.x_student
    tapped = data.goal is not None and segment.supervision.tap is not None

    def ends(chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = outputs(segment.student(chunk))
        return tuple(part.to(x.dtype) for part in ((parts[0], parts[-1]) if tapped else parts[:1]))

    output, *goals = forward_many(ends, x, device)
    error = float(relative_square(output, data.target))
    if data.goal is None or not segment.supervision.reachable:
        return error, 0.0
    if segment.supervision.suffix is not None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            goal = forward_all(segment.supervision.suffix, output, device)
    else:
        goal = goals[0] if tapped else output
    return error, float(relative_square(goal, data.goal))


def _score(errors: tuple[float, float], reference: tuple[float, float]) -> float:
    return sum(e / max(r, 1e-12) for e, r in zip(errors, reference, strict=True))

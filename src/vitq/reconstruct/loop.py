"""The steps of one segment's training: a batch, the loss, Adam with cosine, moving averages."""

import math
from dataclasses import replace
from typing import Any

import torch

from vitq.quantizers import DropMask
from vitq.reconstruct.data import Data
from vitq.reconstruct.objective.curvature import Curvature
from vitq.reconstruct.objective.fusion import Fusion
from vitq.reconstruct.objective.terms import Batch, Goal
from vitq.reconstruct.segment import TrainingSegment
from vitq.reconstruct.settings import Settings
from vitq.reconstruct.variables.rounding import rectified_sigmoid, rounding_penalty

POOL = 1 << 16
"""First size of a pool of random masks; it grows to twice the largest tensor."""


class Loop:
    """One segment's training: what its steps read and what they change."""

    def __init__(
        self,
        segment: TrainingSegment,
        data: Data,
        fusion: Fusion,
        settings: Settings,
        device: torch.device,
        generator: torch.Generator,
        random: torch.Generator,
    ) -> None:
        self.segment, self.data, self.fusion, self.settings, self.device = segment, data, fusion, settings, device
        self.curvature: Curvature | None = None
        self.optimizer = torch.optim.Adam(_by_rate(segment, device), fused=True, capturable=device.type == "cuda")
        self.rates = [group["lr"].clone() for group in self.optimizer.param_groups]
        images = torch.randint(data.train, (settings.steps, settings.batch), generator=generator)
        self.images_SB = images.to(data.target.device)
        """The rows of ``data`` that each step takes; where views are drawn they are new ones (``refill``)."""
        self.progress_S = torch.linspace(0, 1, settings.steps + 1)[:-1].to(device)
        self.now = torch.zeros(1, dtype=torch.int64, device=device)  # one element: a scalar index would be read back
        mixed = settings.noise.mix_inputs
        self.choose = DropMask(1 - mixed, POOL, random) if mixed > 0 else None
        self.parameters = segment.variables.optimized()
        self.learns = True
        """Whether the loss depends on anything that is learnt; known after the first step."""
        self.averaged = [torch.zeros_like(p) for p in self.parameters] if settings.evaluation.average > 0 else None

    def refill(self, data: Data, rows_SB: torch.Tensor) -> None:
        """Let the steps from now on take the given rows of ``data``, one row of ``rows_SB`` after the other."""
        start = int(self.now)
        self.data = data
        self.images_SB[start : start + len(rows_SB)] = rows_SB[: len(self.images_SB) - start].to(self.images_SB.device)

    def probe(self, count: int) -> None:
        """Let the fusion take its scales from the batches of the next ``count`` steps."""
        start = int(self.now)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            self.fusion.probe(self._batch(chosen) for chosen in self.images_SB[start : start + count])

    def step(self) -> torch.Tensor:
        """Draw a batch, take one step of Adam and return the loss."""
        settings, segment = self.settings, self.segment
        progress = self.progress_S[self.now][0]
        chosen = self.images_SB[self.now.to(self.images_SB.device)][0]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bfloat16):
            loss = self.fusion(self._batch(chosen))
        self.learns = loss.requires_grad
        if not self.learns:
            return loss
        (loss + _penalty(segment, settings, progress)).backward()
        with torch.no_grad():
            cosine = 0.5 * (1 + torch.cos(math.pi * progress))
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"].copy_(rate * cosine)
            segment.variables.step(self.optimizer)
            if self.averaged is not None:
                torch._foreach_lerp_(self.averaged, self.parameters, 1 - settings.evaluation.average)
            self.now += 1
        return loss.detach()

    def average(self) -> list[torch.Tensor] | None:
        """Return the moving average of what is learnt, None where it is not kept; as Adam's, it forgets its start."""
        if self.averaged is None or self.settings.steps == 0:
            return None
        decay = self.settings.evaluation.average
        return list(torch._foreach_div(self.averaged, 1 - decay**self.settings.steps))

    def _batch(self, chosen: torch.Tensor) -> Batch:
        """Run the student on the chosen rows."""
        data, objective = self.data, self.settings.objective
        x, x_teacher, target = (self._rows(t, chosen) for t in (data.x_student, data.x_teacher, data.target))
        sees = data.goal is not None and objective.sees_end
        goal = self._goal(data.goal, chosen[: objective.global_batch]) if data.goal is not None and sees else None
        sides = tuple(self._rows(side, chosen) for side in data.sides)
        mixed = x if self.choose is None else torch.where(self.choose(x), x_teacher, x)
        local = min(objective.local_batch, self.settings.batch)
        layers = self._layers(chosen[:local], x_teacher[:local])
        batch = self.segment.batch(mixed, target, goal, layers, local, sides)
        return replace(batch, curvature=None if self.curvature is None else self.curvature.of(chosen))

    def _layers(self, chosen: torch.Tensor, x_teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.data.layers is None:
            return self.segment.teacher_layers(x_teacher)
        return tuple(self._rows(layer, chosen) for layer in self.data.layers)

    def _goal(self, goal_N: Goal, chosen_B: torch.Tensor) -> Goal:
        if isinstance(goal_N, torch.Tensor):
            return self._rows(goal_N, chosen_B)
        return {name: self._rows(y, chosen_B) for name, y in goal_N.items()}

    def _rows(self, x_N: torch.Tensor, chosen_B: torch.Tensor) -> torch.Tensor:
        return x_N[chosen_B].to(self.device).float()


def _by_rate(segment: TrainingSegment, device: torch.device) -> list[dict[str, Any]]:
    """Join the groups of equal rates, for fewer launches; rates are tensors, which a replayed step can change."""
    joined: dict[float, list[torch.Tensor]] = {}
    for group in segment.variables.groups:
        joined.setdefault(float(group["lr"]), []).extend(group["params"])  # type: ignore[arg-type]
    return [{"params": tensors, "lr": torch.tensor(rate, device=device)} for rate, tensors in joined.items()]


def _penalty(segment: TrainingSegment, settings: Settings, progress: torch.Tensor) -> torch.Tensor | float:
    """AdaRound's regularizer at ``progress`` in [0, 1): off during warm-up, then β from 20 to 2."""
    if not segment.variables.roundings:
        return 0.0
    past = (progress - settings.rounding.warmup) / (1 - settings.rounding.warmup)
    beta = 20 - 18 * past.clamp(min=0)
    penalties = [rounding_penalty(rectified_sigmoid(v), beta) for v in segment.variables.penalty_inputs()]
    return settings.rounding.weight * (past >= 0) * torch.stack(penalties).sum()

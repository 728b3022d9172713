"""One segment made ready for reconstruction: its module, what it may learn, its supervision."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from vitq.activations import Result, forward_many, outputs
from vitq.graph import Graph, Role, Span
from vitq.graph.ops import CONV, LINEAR, MATMUL, is_op
from vitq.graph.outputs import ONLY, Named
from vitq.reconstruct.data import count_rows
from vitq.reconstruct.objective.terms import Batch, Goal, Summary
from vitq.reconstruct.variables.learnable import learnable
from vitq.reconstruct.variables.variables import Variables
from vitq.tasks import Classes, Task, task_for

OUTPUTS = ""
"""The goal that is what the model returns, by name, and no single node."""


@dataclass(frozen=True)
class Supervision:
    """How the model's end is seen from a segment: through a frozen suffix, as a tap, or not at all.

    The end is the penultimate feature, or the outputs that follow from the segment's end, by name.
    """

    suffix: nn.Module | None
    tap: str | None
    is_output: bool

    @property
    def reachable(self) -> bool:
        """Whether the goal can be computed from this segment."""
        return self.suffix is not None or self.tap is not None or self.is_output


def supervise(teacher: Graph, span: Span, goal: str) -> Supervision:
    """Find how node ``goal`` (the penultimate feature), or all outputs (``OUTPUTS``), follow from a span's end."""
    order = {name: i for i, name in enumerate(teacher.cuts)}
    if goal == OUTPUTS:
        return Supervision(teacher.to_outputs(span.end) if span.end in order else None, None, False)
    if span.end == goal:
        return Supervision(None, None, True)
    if span.end not in order:  # layer-wise: where the output is no cut, the model's end is no function of it alone
        return Supervision(None, None, False)
    if order[span.end] < order[goal]:
        return Supervision(teacher.segment(span.end, goal), None, False)
    if order[span.start] < order[goal]:
        return Supervision(None, goal, False)
    return Supervision(None, None, False)


@dataclass(frozen=True)
class TrainingSegment:
    """Student and teacher modules of one span with the same taps, and the variables of the student's."""

    span: Span
    student: fx.GraphModule
    teacher: fx.GraphModule
    variables: Variables
    supervision: Supervision
    layers: tuple[str, ...]
    to_outputs: Named | None
    """The frozen floating-point model behind the segment; None where no output follows from its end alone."""
    sides: tuple[str, ...] = ()
    """What the model returns from inside the segment."""
    task: Task = field(default_factory=lambda: Classes(ONLY))
    """What the outputs mean."""

    def targets(
        self, x_N: torch.Tensor, summary: Summary | None, device: torch.device
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...] | None]:
        """Run the teacher once over all inputs: its end, its sides, and where it is wanted each layer's summary."""
        kept = () if summary is None else self.layers

        def look(chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
            output, sides, layers = self._parts(self.teacher(chunk))
            summaries = () if summary is None else tuple(summary(layer, len(chunk)) for layer in layers)
            return tuple(part.to(x_N.dtype) for part in (output, *sides)) + summaries

        output, *parts = forward_many(look, x_N, device)
        sides, layers = tuple(parts[: len(self.sides)]), tuple(parts[len(self.sides) :])
        return output, sides, layers if kept else None

    @torch.no_grad()
    def teacher_layers(self, x_teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the teacher's outputs of the layers inside."""
        return self._parts(self.teacher(x_teacher))[2] if self.layers else ()

    def _parts(self, result: Result) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Take apart what a module gave: its end, its sides, its taps."""
        output, *parts = outputs(result)
        return output, tuple(parts[: len(self.sides)]), tuple(parts[len(self.sides) :])

    def batch(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        target_goal: Goal | None,
        target_layers: tuple[torch.Tensor, ...],
        local_images: int,
        target_sides: tuple[torch.Tensor, ...] = (),
    ) -> Batch:
        """Run the student on ``x`` and collect what the objective terms need.

        The goal is computed for as many images, the first ones, as ``target_goal`` has; the layers inside are
        compared on the first ``local_images``.
        """
        output, sides, taps = self._parts(self.student(x))
        goal = None
        if target_goal is not None and self.supervision.reachable:
            end = taps[-1] if self.supervision.tap else output
            suffix = self.supervision.suffix or torch.nn.Identity()
            goal = suffix(end[: count_rows(target_goal)])
        layers = tuple(tap[: len(tap) * local_images // len(x)] for tap in taps[: len(target_layers)])
        seen = sides if target_sides else ()
        return Batch(output, target, layers, target_layers, goal, target_goal, None, seen, target_sides, self.task)


def prepare(
    student: Graph,
    teacher: Graph,
    span: Span,
    goal: str,
    rates: Mapping[str, float],
    local: bool,
    task: Task | None = None,
) -> TrainingSegment:
    """Extract ``span`` from both graphs and make the student's variables trainable."""
    layers = _layers(student, span) if local else ()
    supervision = supervise(teacher, span, goal)
    sides = teacher.sides(span.start, span.end)
    taps = sides + layers + ((supervision.tap,) if supervision.tap else ())
    module = student.segment(span.start, span.end, taps)
    variables = learnable(student, module, rates)
    inner = teacher.segment(span.start, span.end, sides + layers)
    behind = teacher.to_outputs(span.end) if span.end in teacher.cuts else None
    meaning = task or task_for(teacher.output_shapes)
    return TrainingSegment(span, module, inner, variables, supervision, layers, behind, sides, meaning)


def _layers(graph: Graph, span: Span) -> tuple[str, ...]:
    """Name the weighted operations and attention outputs inside ``span``, its own end and sides excluded."""
    sides = graph.sides(span.start, span.end)
    inside = graph.segment(span.start, span.end, sides).graph
    scores = {c for s in graph.sites.values() if s.role in (Role.QUERY, Role.KEY) for c in s.consumers}
    other = {*scores, span.end, *sides}
    return tuple(n.name for n in inside.nodes if is_op(n, LINEAR | CONV | MATMUL) and n.name not in other)

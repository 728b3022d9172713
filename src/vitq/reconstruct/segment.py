"""One segment made ready for reconstruction: its module, what it may learn, its supervision."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from vitq.activations import first_output, forward_all, forward_many, outputs
from vitq.graph import Graph, Role, Span
from vitq.graph.ops import CONV, LINEAR, MATMUL, is_op
from vitq.reconstruct.objective.terms import Batch, Summary
from vitq.reconstruct.variables.learnable import learnable
from vitq.reconstruct.variables.variables import Variables


@dataclass(frozen=True)
class Supervision:
    """How the model's end is seen from a segment: through a frozen suffix, as a tap, or not at all."""

    suffix: fx.GraphModule | None
    tap: str | None
    is_output: bool

    @property
    def reachable(self) -> bool:
        """Whether the goal can be computed from this segment."""
        return self.suffix is not None or self.tap is not None or self.is_output


def supervise(teacher: Graph, span: Span, goal: str) -> Supervision:
    """Find how node ``goal`` (the penultimate feature or the logits) follows from the end of ``span``."""
    order = {name: i for i, name in enumerate(teacher.cuts)}
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
    to_logits: nn.Module | None
    """The frozen floating-point model behind the segment; None where the logits do not follow from its output."""

    def targets(
        self, x_N: torch.Tensor, summary: Summary | None, device: torch.device
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Run the teacher once over all inputs: its outputs, and the summary of every layer's where there is one."""
        if summary is None or not self.layers:
            return forward_all(first_output(self.teacher), x_N, device), None

        def look(chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
            output, *layers = outputs(self.teacher(chunk))
            return output.to(x_N.dtype), *(summary(layer, len(chunk)) for layer in layers)

        output, *layers = forward_many(look, x_N, device)
        return output, tuple(layers)

    @torch.no_grad()
    def teacher_layers(self, x_teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the teacher's outputs of the layers inside."""
        return outputs(self.teacher(x_teacher))[1:] if self.layers else ()

    def batch(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        target_goal: torch.Tensor | None,
        target_layers: tuple[torch.Tensor, ...],
        local_images: int,
    ) -> Batch:
        """Run the student on ``x`` and collect what the objective terms need.

        The goal is computed for as many images, the first ones, as ``target_goal`` has; the layers inside are
        compared on the first ``local_images``.
        """
        output, *taps = outputs(self.student(x))
        goal = None
        if target_goal is not None and self.supervision.reachable:
            end = taps[-1] if self.supervision.tap else output
            suffix = self.supervision.suffix or torch.nn.Identity()
            goal = suffix(end[: len(target_goal)])
        layers = tuple(tap[: len(tap) * local_images // len(x)] for tap in taps[: len(target_layers)])
        return Batch(output, target, layers, target_layers, goal, target_goal)


def prepare(
    student: Graph, teacher: Graph, span: Span, goal: str, rates: Mapping[str, float], local: bool
) -> TrainingSegment:
    """Extract ``span`` from both graphs and make the student's variables trainable."""
    layers = _layers(student, span) if local else ()
    supervision = supervise(teacher, span, goal)
    taps = layers + ((supervision.tap,) if supervision.tap else ())
    module = student.segment(span.start, span.end, taps)
    variables = learnable(student, module, rates)
    inner = teacher.segment(span.start, span.end, layers)
    return TrainingSegment(span, module, inner, variables, supervision, layers, _to_logits(teacher, span))


def _to_logits(teacher: Graph, span: Span) -> nn.Module | None:
    if span.end not in teacher.cuts:
        return None
    logits = teacher.cuts[-1]
    return nn.Identity() if span.end == logits else teacher.segment(span.end, logits)


def _layers(graph: Graph, span: Span) -> tuple[str, ...]:
    """Name the weighted operations and attention outputs inside ``span``, its own end excluded."""
    inside = graph.segment(span.start, span.end).graph
    scores = {c for s in graph.sites.values() if s.role in (Role.QUERY, Role.KEY) for c in s.consumers}
    return tuple(
        n.name for n in inside.nodes if is_op(n, LINEAR | CONV | MATMUL) and n.name not in scores and n.name != span.end
    )

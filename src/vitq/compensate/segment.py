"""One segment at work: what its layers read, quantized and in floating point, and how far its end is off."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from vitq.activations import StudentTeacher, forward_all, forward_many, forward_outputs
from vitq.compensate.layers import QuantizedLayer
from vitq.compensate.rounding import Moments, moments
from vitq.graph import Span
from vitq.graph.parameters import behind_quantizer
from vitq.tasks.distances import relative_square

if TYPE_CHECKING:
    from vitq.run.run import Run


class Segment:
    """The layers of one segment, on the images for the moments and on the last ``held_out`` rows for the error.

    The error is that of the segment's end, or with ``by`` "model" that of the outputs, all behind as it is quantized.

    What layers read in floating point is the student's without its quantizers, since rewrites change the unit of what
    is inside a segment; it is taken before any layer changes.
    """

    def __init__(
        self,
        run: "Run",
        span: Span,
        layers: Sequence[QuantizedLayer],
        pair: StudentTeacher,
        held_out: int,
        by: str = "segment",
    ) -> None:
        self.run, self.span, self.by = run, span, by
        first = len(pair.teacher_N) - held_out
        self.student_N, self.held_out_N = pair.student_N[:first], pair.student_N[first:]
        nodes = tuple(dict.fromkeys(_floating(layer) for layer in layers))
        module = run.student.segment(span.start, span.end, nodes, floating=True)
        tensors = forward_many(module, pair.teacher_N[:first], run.device)
        self.floating: Mapping[str, torch.Tensor] = dict(zip(nodes, tensors[1:], strict=True)) if nodes else {}
        held_N = pair.teacher_N[first:]
        if by == "model":
            self.outputs_N = forward_outputs(run.teacher.to_outputs(span.start), held_N, run.device)
        else:
            self.target_N = forward_all(run.teacher.segment(span.start, span.end), held_N, run.device)

    def moments(self, layer: QuantizedLayer) -> Moments:
        """Return the second moments of what ``layer`` reads, as the layers before it are now."""
        quantized_N = self.student_N
        if layer.reads.name != self.span.start:
            module = self.run.student.segment(self.span.start, layer.reads.name)
            quantized_N = forward_all(module, self.student_N, self.run.device)
        return moments(layer.rows(quantized_N), layer.rows(self.floating[_floating(layer)]))

    def error(self) -> float:
        """Return the relative squared error of the segment's end on held-out images, or the distance of the outputs."""
        if self.by == "model":
            found_N = forward_outputs(self.run.student.to_outputs(self.span.start), self.held_out_N, self.run.device)
            return float(self.run.task.distance(found_N, self.outputs_N))
        student = self.run.student.segment(self.span.start, self.span.end)
        return float(relative_square(forward_all(student, self.held_out_N, self.run.device), self.target_N))


def _floating(layer: QuantizedLayer) -> str:
    return behind_quantizer(layer.reads).name

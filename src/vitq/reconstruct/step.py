"""The recipe step that reconstructs the student, segment by segment."""

from collections.abc import Sequence
from dataclasses import replace

from vitq.reconstruct.options import Options
from vitq.reconstruct.slicing.choose import Choice, Choose, choose
from vitq.reconstruct.slicing.schedule import Piece, plan
from vitq.reconstruct.slicing.slicings import Slicing
from vitq.reconstruct.sweep import sweep
from vitq.run.run import Run
from vitq.run.step import register_step


@register_step("reconstruct")
class Reconstruct(Options):
    """Train each segment of a schedule on quantized-prefix inputs against floating-point targets."""

    trains = True

    def apply(self, run: Run) -> None:
        """Reconstruct every segment of the schedule, or of the slicing that is chosen."""
        if self.choose is None:
            self._sweep(run, plan(run.student, self.schedule, self.order))
        else:
            self._sliced(run, self.choice(run).best, self.steps)

    def choice(self, run: Run) -> Choice:
        """Try the candidates of ``choose`` and return what was measured; the student stays as it is."""
        options = self.choose or Choose()
        return choose(run, options, lambda copy, slicing: self._sliced(copy, slicing, options.steps))

    def _sliced(self, run: Run, slicing: Slicing, steps: int) -> None:
        self.model_copy(update={"steps": steps})._sweep(run, slicing.pieces)

    def _sweep(self, run: Run, pieces: Sequence[Piece]) -> None:
        if self.images is not None:
            run = replace(run, images_NCHW=run.images_NCHW[: self.images])
        sweep(run, self, pieces)

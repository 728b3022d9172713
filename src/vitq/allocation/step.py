"""Step ``allocate``: give every site its own bits, which average what the run was asked for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from vitq.allocate import SOLVERS, Search
from vitq.allocate.problem import ACTIVATIONS, WEIGHTS
from vitq.allocate.solvers.base import solve
from vitq.allocation.prepare import calibrate_candidates, calibration_of, fit, formats_at, measure, measurer
from vitq.allocation.result import MEASURING
from vitq.bits import FLOATING_POINT
from vitq.calibrate.options import SiteBits
from vitq.quantizers import Format
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run

Formats = Mapping[int, Mapping[str, Format | None]]
"""Formats of sites by bits."""
Solver = Annotated[str, AfterValidator(SOLVERS.option)]


@register_step("allocate")
class Allocate(Step):
    """Choose every site's bits, so that they average the run's bits and the output moves least, and calibrate them.

    It comes behind the steps that insert and calibrate, whose formats it takes at each of ``candidates``, and before
    one that trains. ``images``: how many of the run's images the trials see, the first ones. The other options are
    those of ``vitq.allocate``.
    """

    trains = True
    mixes = True

    solver: Solver = "program"
    by: Literal["output", "feature", "proxy"] = "output"
    pairs: bool = False
    candidates: list[Annotated[int, Field(ge=2, le=8)]] = Field(default=[2, 3, 4, 5, 6, 8], min_length=1)
    keep: dict[str, SiteBits] = Field(default_factory=dict)
    trials: int = Field(default=64, ge=1)
    images: int = Field(default=32, ge=1)

    def apply(self, run: "Run") -> None:
        """Give the quantizers of ``run.student`` their bits; AllocationError where none average the run's."""
        saved = run.restore(run.stage)
        formats = formats_at(run, run.before, sorted(set(self.candidates)), "what comes before")
        bits = self._chosen(run, formats) if saved is None else saved[1]["bits"]
        if saved is None:
            run.save(run.stage, {}, {"bits": bits})
        for name, width in bits.items():
            fit(run.student, name, formats[width][name], run.device)
        again = calibration_of(run.before).model_copy(update={"only_uncalibrated": True, "sites": "all"})
        own = replace(run, stage=f"{run.stage}-calibrate")
        again.apply(own)
        run.outliers = own.outliers
        run.events.log("allocate", solver=self.solver, bits=bits, resumed=saved is not None)

    def _chosen(self, run: "Run", formats: Formats) -> dict[str, int]:
        """Run the trials on a copy of the student and return what the solver chooses."""
        own = replace(run, student=run.student.clone(), images_NCHW=run.images_NCHW[: self.images])
        widths = tuple(formats)
        ready = calibrate_candidates(own, run.before, formats, stage=f"{run.stage}-")
        found = measure(
            own,
            ready,
            widths,
            {},
            proxy_only=self.by == "proxy",
            checkpoints=run.checkpoints.under(f"{run.stage}-trial-"),
        )
        averages = {WEIGHTS: run.bits.weights, ACTIVATIONS: run.bits.activations}
        limits = {name: float(most) for name, most in averages.items() if most != FLOATING_POINT}
        keep = {pattern: entry.bits for pattern, entry in self.keep.items()}
        problem = found.problem(limits, by=self.by, pairs=self.pairs, keep=keep)
        real = measurer(ready, own, widths) if self.solver in MEASURING else None
        return problem.named(solve(problem, self.solver, Search(real, self.trials, run.seed, warn=run.events.warn)))

"""The choice of a slicing: a short reconstruction of every candidate, evaluated by the error of the final feature."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from vitq.activations import forward_all
from vitq.errors import RecipeError
from vitq.quantizers import use_compiled_kernels, worth_compiling
from vitq.reconstruct.data import ONE_HELD_OUT_IN, count_held_out
from vitq.reconstruct.slicing.outliers import Outliers, outlier_profile
from vitq.reconstruct.slicing.schedule import check_name
from vitq.reconstruct.slicing.slicings import Slicing, candidates
from vitq.run.checkpoints import Checkpoints
from vitq.run.run import Run
from vitq.run.step import OptionGroup
from vitq.tasks.distances import relative_square


class Choose(OptionGroup):
    """Candidates and the trial that each gets.

    ``among``: uniform granularities; ``outlier_quantiles``: one adaptive slicing each, merged where the share of
    energy beyond ``kappa`` standard deviations is above that quantile, inside spans of ``longest``; ``steps`` and
    ``images`` to train on in a trial; ``held_out`` images, the last ones and at most a fifth of all, evaluate it.
    """

    among: tuple[str, ...] = ("unit", "block", "2", "4")
    outlier_quantiles: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.25, 0.5, 0.75)
    longest: str = "4"
    kappa: float = Field(default=6.0, gt=0)
    steps: int = Field(default=30, ge=0)
    images: int = Field(default=256, ge=1)
    held_out: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _has_candidates(self) -> Self:
        for name in (*self.among, self.longest):
            check_name(name)
        if not self.among and not self.outlier_quantiles:
            raise ValueError("no candidate is left; name a granularity in among, or an outlier quantile")
        return self


@dataclass(frozen=True)
class Choice:
    """A model's outliers, the error of the final feature of every candidate, and the best candidate."""

    profile: tuple[Outliers, ...]
    scores: dict[str, float]
    best: Slicing


Trial = Callable[[Run, Slicing], None]


def choose(run: Run, options: Choose, trial: Trial) -> Choice:
    """Let ``trial`` reconstruct a copy of the student for every candidate and return the best, the finer in a tie.

    Scores are checkpointed, so a resumed run repeats none. Raises RecipeError where too few images are there.
    Source: OAS (ICML 2024); the proxy and its score are vitq's reading.
    """
    count = len(run.images_NCHW)
    held_out = count_held_out(count, options.held_out)
    if held_out == 0:
        raise RecipeError(
            f"choosing a slicing holds out at most a fifth of the calibration images, which is none of {count}; "
            f"give at least {ONE_HELD_OUT_IN}"
        )
    images = run.images_NCHW[: min(options.images, count - held_out)]
    profile = outlier_profile(run.teacher, images[:held_out], run.device, options.kappa)
    slicings = candidates(run.teacher, profile, options.among, options.outlier_quantiles, options.longest)
    scores: dict[str, float] = {}
    compiled = use_compiled_kernels(worth_compiling(len(slicings) * len(images), images.shape))
    with compiled, run.events.task("choose", len(slicings)) as task:
        for slicing in slicings:
            key = f"{run.stage}-trial-{slicing.name}"
            saved = run.restore(key)
            if saved is None:
                student = run.student.clone()
                copy = replace(run, student=student, images_NCHW=images, checkpoints=Checkpoints(), stage=key)
                trial(copy, slicing)
                scores[slicing.name] = _feature_error(copy, run.images_NCHW[-held_out:])
                run.save(key, {}, {"score": scores[slicing.name]})
            else:
                scores[slicing.name] = float(saved[1]["score"])
            run.events.log("trial", slicing=slicing.name, segments=len(slicing.pieces), error=scores[slicing.name])
            task.advance()
    best = min(slicings, key=lambda slicing: scores[slicing.name])
    run.events.log("chosen", slicing=best.name, segments=[piece.span.name for piece in best.pieces])
    return Choice(profile, scores, best)


@torch.no_grad()
def _feature_error(run: Run, images_NCHW: torch.Tensor) -> float:
    """Return the relative squared error of the student's penultimate feature."""
    first, feature = run.teacher.cuts[0], run.teacher.feature
    student = forward_all(run.student.segment(first, feature), images_NCHW, run.device)
    return float(relative_square(student, forward_all(run.teacher.segment(first, feature), images_NCHW, run.device)))

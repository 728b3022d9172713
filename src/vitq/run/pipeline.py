"""Run the steps of a recipe: show what they will quantize, apply them, measure what is left of each block."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from vitq.activations import forward_all
from vitq.artifact.artifact import freeze_weights
from vitq.bits import FLOATING_POINT, Bits
from vitq.calibrate import Placed, scope_rows
from vitq.calibrate.plan import joined
from vitq.errors import RecipeError
from vitq.quantizers import Quantizer
from vitq.reconstruct.data import count_held_out
from vitq.reconstruct.objective.distances import relative_square
from vitq.report import scope_table
from vitq.run.run import Run
from vitq.run.step import Step


def run_steps(run: Run, steps: Sequence[Step]) -> dict[str, Quantizer]:
    """Apply ``steps`` to the student, freeze its weights and return their quantizers by site."""
    apply_steps(run, steps)
    frozen = freeze_weights(run.student)
    if not frozen and not run.student.quantizers and run.bits != Bits(FLOATING_POINT, FLOATING_POINT):
        run.events.warn(
            "nothing-quantized",
            "no site got a quantizer: the recipe inserts none, or its scope holds no linear, convolution or matmul",
        )
    return frozen


def apply_steps(run: Run, steps: Sequence[Step]) -> None:
    """Apply ``steps`` to the student, one after another; each keeps and reads back its own checkpoints."""
    for number, step in enumerate(steps):
        run.stage = f"{number:02d}-{step.step_name}"
        run.events.log("step", name=step.step_name, number=number)
        with _named(run, step):
            step.apply(run)


def show_scope(run: Run, steps: Sequence[Step], scope: str) -> None:
    """Show what ``steps`` will quantize and the name of their scope.

    RecipeError, before any work, where an option names no site.
    """
    plan: dict[str, Placed] = {}
    for step in steps:
        with _named(run, step):
            plan = joined(plan, step.preview(run.student, run.bits))
    formats = {name: placed.format for name, placed in plan.items()}
    title = f"What is quantized ({run.bits}), scope {scope}"
    run.events.show(scope_table(scope_rows(run.student, planned=formats), title))


@contextmanager
def _named(run: Run, step: Step) -> Iterator[None]:
    """Say of an error in a step's options whose they are."""
    try:
        yield
    except RecipeError as error:
        recipe = f"recipe '{run.recipe}', " if run.recipe else ""
        raise RecipeError(f"{recipe}step '{step.step_name}': {error}") from error


@torch.no_grad()
def segment_errors(run: Run, images: int = 64) -> dict[str, float]:
    """Return, per block, the relative squared error of the student's activations.

    They are of the last ``images`` calibration images, but at most of the fifth that is never trained on.
    """
    student = teacher = run.images_NCHW[-max(count_held_out(len(run.images_NCHW), images), 1) :]
    errors: dict[str, float] = {}
    for span in run.teacher.spans("block"):
        student = forward_all(run.student.segment(span.start, span.end), student, run.device)
        teacher = forward_all(run.teacher.segment(span.start, span.end), teacher, run.device)
        errors[span.name] = float(relative_square(student, teacher))
    return errors

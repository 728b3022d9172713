"""Run the steps of a recipe: say what they will quantize, and apply them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile

import torch

from vitq.artifact.tensors import freeze_weights
from vitq.bits import FLOATING_POINT, Bits
from vitq.errors import RecipeError
from vitq.graph import Graph, Site
from vitq.quantizers import Quantizer
from vitq.run.placed import Placed, joined
from vitq.run.run import Run
from vitq.run.step import Step


def run_steps(
    run: Run, steps: Sequence[Step], before_freezing: Callable[[Graph], None] = lambda _: None
) -> dict[str, Quantizer]:
    """Apply ``steps`` to the student, freeze its weights and return their quantizers by site.

    ``before_freezing`` may look at the student while the quantizers of its weights are on them.
    """
    apply_steps(run, steps)
    before_freezing(run.student)
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
        run.placed_ahead = partial(_placed_by, run, steps[number + 1 :])
        run.apart_ahead = partial(_apart_by, steps[number + 1 :])
        run.before = tuple(steps[:number])
        run.rehearse = partial(_rehearse, steps[number + 1 :])
        run.events.log("step", name=step.step_name, number=number)
        with _named(run, step):
            step.apply(run)


def _rehearse(steps: Sequence[Step], trial: Run) -> None:
    apply_steps(trial, list(takewhile(lambda step: not step.trains, steps)))


def preview(run: Run, steps: Sequence[Step]) -> dict[str, Placed]:
    """Return what ``steps`` will put on the student's sites; RecipeError, before any work, for an option of no site."""
    plan: dict[str, Placed] = {}
    for step in steps:
        with _named(run, step):
            plan = joined(plan, step.preview(run.student, run.bits))
    return plan


def _placed_by(run: Run, steps: Sequence[Step]) -> dict[str, Placed]:
    """Return what ``steps`` will put on the student's sites as they are now; of two for one site the later one."""
    return {site: placed for step in steps for site, placed in step.preview(run.student, run.bits).items()}


def _apart_by(steps: Sequence[Step], site: Site, x: torch.Tensor, axis: int | None) -> tuple[int, ...]:
    """Return the tokens that the first of ``steps`` that does so keeps apart."""
    return next((found for step in steps if (found := step.apart(site, x, axis))), ())


@contextmanager
def _named(run: Run, step: Step) -> Iterator[None]:
    """Say of an error in a step's options whose they are."""
    try:
        yield
    except RecipeError as error:
        recipe = f"recipe '{run.recipe}', " if run.recipe else ""
        raise RecipeError(f"{recipe}step '{step.step_name}': {error}") from error

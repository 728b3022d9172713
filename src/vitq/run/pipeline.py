"""Run the steps of a recipe, restoring what an interrupted run had already calibrated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from vitq.activations import forward_all
from vitq.artifact.artifact import freeze_weights
from vitq.bits import FLOATING_POINT, Bits
from vitq.calibrate import scope_rows
from vitq.errors import RecipeError
from vitq.graph import Graph
from vitq.graph.edit import quantizer_target
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
    """Apply ``steps`` to the student, one after another.

    A calibration is checkpointed whole, a reconstruction after each segment; the other steps are quick and exact,
    so a resumed run applies them again.
    """
    for number, step in enumerate(steps):
        run.stage = f"{number:02d}-{step.step_name}"
        run.events.log("step", name=step.step_name, number=number)
        with _named(run, step):
            if step.step_name == "calibrate":
                _calibrate(run, step)
            else:
                step.apply(run)


def show_scope(run: Run, steps: Sequence[Step]) -> None:
    """Show what ``steps`` will quantize; RecipeError, before any work, where an option names no site."""
    copy = Run(run.teacher, run.student.clone(), run.images_NCHW, run.bits, device=run.device, recipe=run.recipe)
    for step in steps:
        if step.step_name == "insert":
            with _named(copy, step):
                step.apply(copy)
    run.events.show(scope_table(scope_rows(copy.student), f"What is quantized ({run.bits})"))


@contextmanager
def _named(run: Run, step: Step) -> Iterator[None]:
    """Say of an error in a step's options whose they are."""
    try:
        yield
    except RecipeError as error:
        recipe = f"recipe '{run.recipe}', " if run.recipe else ""
        raise RecipeError(f"{recipe}step '{step.step_name}': {error}") from error


def _calibrate(run: Run, step: Step) -> None:
    saved = run.restore(run.stage)
    if saved is None:
        step.apply(run)
        run.keep(run.stage, _parameters(run.student))
        return
    by_target: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in saved[0].items():
        target, _, name = path.rpartition(".")
        by_target.setdefault(target, {})[name] = tensor.to(run.device)
    for site, quantizer in run.student.quantizers.items():
        assert isinstance(quantizer, Quantizer)
        if parameters := by_target.get(quantizer_target(site)):
            quantizer.set_parameters(**parameters)
    run.events.log("calibrate", resumed=True)


def _parameters(graph: Graph) -> dict[str, torch.Tensor]:
    return {
        f"{quantizer_target(site)}.{name}": tensor
        for site, quantizer in graph.quantizers.items()
        if isinstance(quantizer, Quantizer) and quantizer.calibrated
        for name, tensor in quantizer.parameters_dict().items()
    }


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

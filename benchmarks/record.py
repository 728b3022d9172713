"""Measure the recipes for 5 bits and fewer: rotations and closed forms, training of equal time, budgets.

    python benchmarks/record.py run --data ../shared/data
    python benchmarks/record.py run --data ../shared/data --tables trained --models deit_tiny_patch16_224 --bits w3a3
    python benchmarks/record.py table

Tables: ``calibration`` (no training, rotated or not, with and without closed forms), ``trained`` (equal processor time
of training on one thread, three seeds), ``budgets`` (vitq as it comes), ``parts`` (GLF-Q ingredient by ingredient),
and for a GPU ``full``. Where a table has minutes, each recipe's steps are first timed on few images and then scaled, so
that all that learns takes so many minutes together. A row has top-1 on the validation images, and KL and agreement with
floating point on 200 calibration images that were not used. Rows that are in the results are not measured again. Two
bits are in allocate.py.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cells import Axes, Bench, add_options, print_tables, run_tables
from command import Row, run_or_table
from variants import Options, Variant, rotate

from vitq.bits import Bits
from vitq.quantizers import use_compiled_kernels
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.slicing.schedule import plan
from vitq.rewrite import Rotate
from vitq.run.events import Events
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run
from vitq.run.step import Step

RESULTS = Path(__file__).parent / "results" / "record.jsonl"
PACE_STEPS, PACE_IMAGES = 120, 40
"""Steps of all segments together behind their first ones, and images, by which a recipe's training is timed."""


@dataclass(frozen=True)
class Table(Axes):
    """Bits, seeds and variants; ``minutes`` of training for each cell, without them as the recipe says."""

    minutes: float | None = None


ROTATED = {
    "": [],
    ", heads rotated": rotate(True, "none"),
    ", residual rotated": rotate(False, "ones"),
    ", both rotated": rotate(True, "ones"),
}
CLOSED: dict[str, list[dict[str, Options]]] = {
    "": [],
    " + gptq": [{"gptaq": {"strength": 0, "by": "model"}}],
    " + gptaq": [{"gptaq": {"by": "model"}}],
    " + erq's ridge": [{"gptaq": {"strength": 1, "by": "model"}}],
    " + comq": [{"gptaq": {"strength": 0, "passes": 3, "by": "model"}}],
    " + biases": [{"match_channels": {"factors": False}}],
    " + channels": [{"match_channels": {}}],
}
PLAIN: dict[str, Any] = {"rotate": "remove", "relu_mlp": "remove"}
LOW: dict[str, Variant] = {
    "mgrq": Variant("mgrq"),
    "mgrq on pairs": Variant("mgrq", options={"reconstruct.schedule": ["2"]}),
    "glf-q": Variant("glf-q"),
    "vitq": Variant("vitq"),
    "vitq on 800 images": Variant("vitq", options={"reconstruct.images": 800}),
}
TABLES: dict[str, Table] = {
    "calibration": Table(
        ("w4a4", "w3a3"),
        (0,),
        {
            **{
                f"{recipe}{name}": Variant(recipe, first=first)
                for recipe in ("repq", "adalog")
                for name, first in ROTATED.items()
            },
            **{
                f"adalog{name}{closed}": Variant("adalog", first=ROTATED[name], last=last)
                for name in ("", ", heads rotated")
                for closed, last in CLOSED.items()
                if closed
            },
        },
    ),
    "trained": Table(("w4a4", "w3a3"), (0, 1, 2), LOW, minutes=10),
    "budgets": Table(
        ("w4a4", "w3a3"), (0,), {f"vitq {budget}": Variant("vitq", budget) for budget in ("fast", "quick")}
    ),
    "parts": Table(
        ("w3a3",),
        (0,),
        {
            "glf-q without both": Variant("glf-q", options=PLAIN),
            "glf-q without relu_mlp": Variant("glf-q", options={"relu_mlp": "remove"}),
            "glf-q without rotate": Variant("glf-q", options={"rotate": "remove"}),
            "glf-q without the feature": Variant("glf-q", options={"reconstruct.objective.global": 0}),
            "glf-q without the block": Variant("glf-q", options={"reconstruct.objective.block": 0}),
        },
        minutes=10,
    ),
    "full": Table(("w3a3", "w4a4"), (0,), {"vitq full": Variant("vitq", "full")}),
}
FOR_A_GPU = ("full",)


def paced(run: Run, steps: Sequence[Step], minutes: float) -> tuple[list[Step], float]:
    """Return ``steps`` with as many training steps as take ``minutes`` of processor time, and the factor on them.

    What comes before the first reconstruction is applied, and learning among it counts. Kernels are
    compiled before they are timed, as they are in the run itself, and what a segment does once (its curvature, its
    evaluation) is no training.
    """
    few = replace(run, student=run.student.clone(), images_NCHW=run.images_NCHW[:PACE_IMAGES])
    spent, wanted = 0.0, 0.0
    for step in steps:
        if isinstance(step, Rotate):
            step = step.model_copy(update={"choose": False})  # which the real run does, and is no training
        if not isinstance(step, Reconstruct):
            seconds = _seconds(few, step)
            spent += seconds if step.step_name == "relu_mlp" else 0.0
            continue
        timed = math.ceil(PACE_STEPS / len(plan(few.student, step.schedule, step.order)))
        short = [step.model_copy(update={"steps": count}) for count in (1, 1, 1 + timed)]
        with use_compiled_kernels():
            _, one, more = (_seconds(replace(few, student=few.student.clone()), part) for part in short)
        wanted += (more - one) / timed * step.steps
    if wanted <= 0:
        raise ValueError("nothing of this recipe is trained, so it cannot take as long as another")
    factor = (60 * minutes - spent) / wanted
    if factor <= 0:
        raise ValueError(f"what this recipe learns before takes {spent / 60:.1f} of {minutes} minutes: none are left")
    return [
        step.model_copy(update={"steps": max(round(factor * step.steps), 1)}) if isinstance(step, Reconstruct) else step
        for step in steps
    ], factor


def _seconds(run: Run, step: Step) -> float:
    run.stage = step.step_name
    began = time.process_time()
    step.apply(run)
    return time.process_time() - began


class Record(Bench):
    """Measures variants, each of a table's minutes where that has some."""

    def one(self, cell: Row) -> Row:
        """Return steps of training, seconds, what held-out images say, and top-1."""
        table, facts = TABLES[cell["table"]], dict[str, Any]()
        with Events(None, console=False) as events:
            run = self.start(Bits.parse(cell["bits"]), cell["seed"], events)
            steps = table.variants[cell["variant"]].steps()
            if table.minutes is not None:
                steps, facts["factor"] = paced(run, steps, table.minutes)
            began = time.process_time()
            apply_steps(run, steps)
        facts["steps"] = [step.steps for step in steps if isinstance(step, Reconstruct)]
        seconds = round(time.process_time() - began, 1)
        scores = {**self.judge(run), "device": self.chosen.device, **self.top1(run.student)}
        return {**facts, "seconds": seconds, **scores}


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; each of ``--jobs`` processes has cells of one model."""
    run_tables(Record, TABLES, chosen)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown."""
    print_tables(TABLES, chosen.results)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    add_options(parser, TABLES, [name for name in TABLES if name not in FOR_A_GPU])


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

"""Measure the recipes for 5 bits and fewer: rotations and closed forms, training of equal time, budgets, two bits.

    python benchmarks/record.py run --data ../shared/data
    python benchmarks/record.py run --data ../shared/data --tables trained --models deit_tiny_patch16_224 --bits w3a3
    python benchmarks/record.py table

Tables: ``calibration`` (no training, rotated or not, with and without closed forms), ``trained`` (equal processor time
of training on one thread, three seeds), ``budgets`` (vitq as it comes), ``parts`` (GLF-Q ingredient by ingredient),
``two bits``, and for a GPU ``full``. Where a table has minutes, each recipe's steps are first timed on few images and
then scaled, so that all that learns takes so many minutes together. A row has top-1 on the validation images, and KL
and agreement with floating point on 200 calibration images that were not used. Rows that are in the results are not
measured again.
"""

import argparse
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from command import append, rows, run_or_table
from grid import grid, model_name
from matrix import HELD_OUT, MODELS, ends, images, judge

from vitq.activations import CPU_CHUNK
from vitq.bits import Bits
from vitq.devices import choose_device
from vitq.evaluation import measure
from vitq.recipes import load_recipe
from vitq.recipes.known import known_steps
from vitq.reconstruct import Reconstruct
from vitq.rewrite import Rotate
from vitq.run.events import Events
from vitq.run.inputs import capture_checked
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run
from vitq.run.step import Step

RESULTS = Path(__file__).parent / "results" / "record.jsonl"
KEYS = ("table", "variant", "model", "bits", "seed")
PACE_STEPS, PACE_IMAGES = 3, 40
"""Steps of each segment, and images, by which a recipe's training is timed."""

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A recipe with other options, with steps before its own and behind them."""

    recipe: str
    budget: str = "quick"
    options: Options = field(default_factory=dict)
    first: Sequence[Mapping[str, Options]] = ()
    last: Sequence[Mapping[str, Options]] = ()

    def steps(self) -> list[Step]:
        """Return all steps."""
        own = load_recipe(self.recipe, budget=self.budget, overrides=self.options).steps
        first, last = ([_step(entry) for entry in entries] for entries in (self.first, self.last))
        return [*first, *own, *last]


def _step(entry: Mapping[str, Options]) -> Step:
    ((name, options),) = entry.items()
    return known_steps()[name].model_validate(options)


@dataclass(frozen=True)
class Table:
    """Bits, seeds and variants; ``minutes`` of training for each cell, without them as the recipe says."""

    bits: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: Mapping[str, Variant]
    minutes: float | None = None


def rotate(heads: bool, residual: str) -> list[dict[str, Options]]:
    """Return the step that rotates what is named, whatever it brings."""
    return [{"rotate": {"heads": heads, "residual": residual, "choose": False}}]


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
    "two bits": Table(("w2a4", "w2a2"), (0,), {name: LOW[name] for name in ("glf-q", "vitq")}, minutes=10),
}
FOR_A_GPU = ("full",)


def paced(run: Run, steps: Sequence[Step], minutes: float) -> tuple[list[Step], float]:
    """Return ``steps`` with as many training steps as take ``minutes`` of processor time, and the factor on them.

    What comes before the first reconstruction is applied, and learning among it counts.
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
        short = [step.model_copy(update={"steps": count}) for count in (0, PACE_STEPS)]
        none, some = (_seconds(replace(few, student=few.student.clone()), one) for one in short)
        wanted += (some - none) / PACE_STEPS * step.steps
    if wanted <= 0:
        raise ValueError("nothing of this recipe is trained, so it cannot take as long as another")
    factor = (60 * minutes - spent) / wanted
    return [
        step.model_copy(update={"steps": max(round(factor * step.steps), 1)}) if isinstance(step, Reconstruct) else step
        for step in steps
    ], factor


def _seconds(run: Run, step: Step) -> float:
    run.stage = step.step_name
    began = time.process_time()
    step.apply(run)
    return time.process_time() - began


def work(cells: list[dict[str, Any]], chosen: argparse.Namespace) -> int:
    """Measure cells of one model, one after another, and return how many failed."""
    torch.set_num_threads(chosen.threads)
    source, x_NCHW, x_val, labels = images(cells[0]["model"], chosen)
    device, failed = choose_device(chosen.device), 0
    teacher, x_calibration, x_held_out = capture_checked(source, x_NCHW, device), *x_NCHW.tensor_split([-HELD_OUT])
    like = ends(teacher, x_held_out, device)
    for cell in cells:
        table, facts = TABLES[cell["table"]], dict[str, Any]()
        try:
            with Events(None, console=False) as events:
                bits = Bits.parse(cell["bits"])
                run = Run(teacher, teacher.clone(), x_calibration, bits, cell["seed"], device, events)
                steps = table.variants[cell["variant"]].steps()
                if table.minutes is not None:
                    trial = replace(run, student=teacher.clone())
                    steps, facts["factor"] = paced(trial, steps, table.minutes)
                began = time.process_time()
                apply_steps(run, steps)
            facts["steps"] = [step.steps for step in steps if isinstance(step, Reconstruct)]
            seconds = round(time.process_time() - began, 1)
            row = {**cell, **facts, "seconds": seconds, **judge(run, x_held_out, like), "device": chosen.device}
            batches = zip(x_val.split(CPU_CHUNK), labels.split(CPU_CHUNK), strict=True)
            row |= {"top1": measure(run.student, batches, device)[0].top1, "images": len(x_val)}
        except Exception:
            failed += 1
            print(f"{cell} failed: {traceback.format_exc()}", flush=True)
            continue
        append(chosen.results, row)
        print(row, flush=True)
    return failed


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; each of ``--jobs`` processes has cells of one model."""
    known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for name, model in product(chosen.tables, chosen.models):
        table = TABLES[name]
        for number, (bits, variant, seed) in enumerate(product(table.bits, table.variants, table.seeds)):
            values = (name, variant, model, bits, seed)
            asked = (not chosen.variants or variant in chosen.variants) and (not chosen.bits or bits in chosen.bits)
            if asked and values not in known and (not chosen.seeds or seed in chosen.seeds):
                groups[model, number % chosen.split].append(dict(zip(KEYS, values, strict=True)))
    for model in {group[0] for group in groups}:
        images(model, chosen)  # decoded once, before processes would do it side by side
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        failed = sum(done.result() for done in as_completed([pool.submit(work, c, chosen) for c in groups.values()]))
    raise SystemExit(1 if failed else 0)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: top-1 and held-out KL, their deviation over seeds, and processor seconds."""
    measured = rows(chosen.results)
    for name, entry in TABLES.items():
        own = [row for row in measured if row["table"] == name]
        columns = [column for column in product(MODELS, entry.bits) if column in {(r["model"], r["bits"]) for r in own}]
        if not columns:
            continue
        lines = []
        for variant in entry.variants:
            found = [row for row in own if row["variant"] == variant]
            cells = [[r for r in found if (r["model"], r["bits"]) == column] for column in columns]
            if found:
                lines.append((variant, *map(_cell, cells), f"{max(row['seconds'] for row in found):.0f}"))
        heads = [f"{model_name(model)} {bits.upper()}" for model, bits in columns]
        print(f"\n{grid((name, *heads, 'CPU seconds'), lines)}")


def _cell(group: list[dict[str, Any]]) -> str:
    found = []
    for key, digits in (("top1", 1), ("kl", 3)):
        values = torch.tensor([row[key] for row in group])
        spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
        found += [f"{values.mean():.{digits}f}{spread}"] if len(values) else []
    return " / ".join(found) or "–"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--tables",
        nargs="+",
        default=[name for name in TABLES if name not in FOR_A_GPU],
        choices=list(TABLES),
        metavar="NAME",
    )
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="rows; all by default")
    parser.add_argument("--bits", nargs="+", default=[], help="of each table; all by default")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="of each table; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--split", type=int, default=1, help="processes for one model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/vitq-matrix"), help="where decoded images are kept")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

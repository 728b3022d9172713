"""Measure bits where they matter: tables of bits under a budget beside the same bits everywhere.

    python benchmarks/allocate.py run --data ../shared/data --trials ../allocate-trials --jobs 2 --split 2
    python benchmarks/allocate.py run --data ../shared/data --trials ../allocate-trials --averages 3 --recipes repq
    python benchmarks/allocate.py run --data ../shared/data --trials ../allocate-trials --tables full
    python benchmarks/allocate.py table

First come each model's sensitivities, on 32 images, which are kept in ``--trials`` with the tables; then every solver
with the first recipe of its table; then, with the second, the same bits everywhere, greedy and the solver whose KL on
the held-out images is least. A row has top-1 on the validation images, what 200 calibration images that were not used
say, the bytes that an artifact's tensors take, and the processor's seconds of choosing bits (``solving``) and of
quantizing. What is in the results or in ``--trials`` is not measured again.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from allocate_tables import FLOATING, SOLVERS, TABLES, UNIFORM, table
from cells import Bench, add_processes, measured, pool
from command import rows, run_or_table
from judging import MODELS

import vitq
from vitq.allocation import Allocation
from vitq.allocation.files import is_allocation
from vitq.allocation.tables import Asked
from vitq.artifact.tensors import describe_sites, packed
from vitq.bits import AverageBits, Bits, BitTable
from vitq.recipes import load_recipe
from vitq.recipes.bit_table import read_table, write_table
from vitq.run.events import Events
from vitq.run.pipeline import run_steps

RESULTS = Path(__file__).parent / "results" / "allocate.jsonl"
KEYS = ("table", "recipe", "solver", "model", "average", "seed")
TRIAL_IMAGES = 32
Cell = dict[str, Any]


class Solved(Bench):
    """Measures the bits that solvers choose, and keeps trials and tables."""

    def folder(self, name: str) -> Path:
        """Where trials and tables are kept."""
        return folder_of(name, self.model, self.chosen)

    def allocation(self, name: str, average: str, seed: int, **solver: Any) -> Allocation:
        """Return the bits of a solver at an average; the first call runs the trials."""
        setup = TABLES[name]
        return vitq.allocate(
            self.source,
            self.x_calibration[: self.chosen.trial_images],
            average_bits=average,
            candidates=setup.candidates,
            recipe=next(iter(setup.recipes)),
            overrides=setup.options,
            trials=self.chosen.whole_models,
            seed=seed,
            device=self.chosen.device,
            out=self.folder(name),
            progress=False,
            **solver,
        )

    def table(self, cell: Cell) -> BitTable:
        """Return a solver's bits, from its file where it has one."""
        path = self.folder(cell["table"]) / f"{cell['solver'].replace(' ', '-')}-{cell['average']}-{cell['seed']}.yaml"
        if not path.exists():
            found = self.allocation(cell["table"], cell["average"], cell["seed"], **SOLVERS[cell["solver"]])
            path.with_suffix(".part").write_text(write_table(found.table))
            path.with_suffix(".part").replace(path)
        return read_table(path)

    def trials(self, name: str, seed: int) -> Cell:
        """Run the trials where there are none, and return a row with floating point's top-1 and their seconds."""
        began = time.process_time()
        found = self.allocation(name, str(TABLES[name].candidates[-1]), seed, solver="program")
        seconds = time.process_time() - began
        row = {"solving": round(seconds, 1), "sites": len(found.bits), "candidates": len(TABLES[name].candidates)}
        return {**row, **self.top1(self.teacher, self.chosen.images)}

    def one(self, cell: Cell) -> Cell:
        """Return seconds, bytes, what held-out images say, and top-1; of floating point the trials' seconds."""
        if cell["solver"] == FLOATING:
            return self.trials(cell["table"], cell["seed"])
        began = time.process_time()
        asked = Asked.of(uniform(cell["average"]) if cell["solver"] == UNIFORM else self.table(cell))
        solved = time.process_time()
        setup = TABLES[cell["table"]]
        overrides = {**setup.options, **setup.recipes[cell["recipe"]], **asked.overrides}
        with Events(None, console=False) as events:
            run = self.start(asked.bits, cell["seed"], events)
            frozen = run_steps(run, load_recipe(cell["recipe"], overrides=overrides).steps)
        seconds = {"solving": round(solved - began, 1), "seconds": round(time.process_time() - solved, 1)}
        stored = packed(run.student, frozen, describe_sites(run.student, frozen))
        size = {"bytes": sum(tensor.nbytes for tensor in stored.values())}
        return {**seconds, **size, **self.judge(run), **self.top1(run.student, self.chosen.images)}


def folder_of(name: str, model: str, chosen: argparse.Namespace) -> Path:
    """Where trials and tables of a model are kept."""
    return Path(chosen.trials) / f"{name}-{model}-{chosen.trial_images}"


def uniform(average: str) -> Bits:
    """Return the same bits everywhere of an average in whole numbers; ValueError for one that is not."""
    given = AverageBits.parse(average)
    if given.weights is None or given.activations is None or given.weights % 1 or given.activations % 1:
        raise ValueError(f"average {average} is of no uniform bits")
    return Bits(int(given.weights), int(given.activations))


def cells_of(phase: int, chosen: argparse.Namespace) -> Iterator[Cell]:
    """Yield what is to be measured: the trials in phase 0, then one phase a recipe of the tables."""
    for seed, name, model in product(chosen.seeds, chosen.tables, chosen.models):
        setup = TABLES[name]
        recipes = [recipe for recipe in setup.recipes if not chosen.recipes or recipe in chosen.recipes]
        if phase == 0:
            values: list[tuple[str, str, str]] = [(FLOATING, FLOATING, "32")]
        else:
            recipe = [*setup.recipes, *[""] * phase][phase - 1]
            averages = chosen.averages or setup.averages
            wanted = {average: solvers_of(name, model, average, seed, phase, chosen) for average in averages}
            values = [(recipe, s, a) for a in averages for s in wanted[a] if recipe in recipes]
        for recipe, solver, average in values:
            yield dict(zip(KEYS, (name, recipe, solver, model, average, seed), strict=True))


def solvers_of(name: str, model: str, average: str, seed: int, phase: int, chosen: argparse.Namespace) -> list[str]:
    """Return the solvers of an average: all in phase 1, then but the same bits, greedy and the best of phase 1."""
    setup = TABLES[name]
    found = [s for s in setup.solvers if s != UNIFORM or _is_uniform(average)]
    if phase > 1:
        first = next(iter(setup.recipes))
        about = {"table": name, "recipe": first, "model": model, "average": average, "seed": seed}
        own = [row for row in rows(chosen.results) if about.items() <= row.items() and row["solver"] != UNIFORM]
        best = min(own, key=lambda row: row["kl"])["solver"] if own else ""
        found = [solver for solver in found if solver in (UNIFORM, "greedy", best)]
    return [solver for solver in found if not chosen.solvers or solver in chosen.solvers]


def _is_uniform(average: str) -> bool:
    try:
        uniform(average)
    except ValueError:
        return False
    return True


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; each of ``--jobs`` processes has cells of one model."""
    chosen.until, failed = time.time() + chosen.minutes * 60, 0
    phases = 1 + max(len(TABLES[name].recipes) for name in chosen.tables)
    with pool(chosen.models, chosen) as processes:
        for phase in range(phases):
            known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
            cells = [c for c in cells_of(phase, chosen) if tuple(c.values()) not in known or _lacks(phase, c, chosen)]
            groups: dict[tuple[str, int], list[Cell]] = defaultdict(list)
            for number, cell in enumerate(cells):
                groups[cell["model"], number % chosen.split if phase else 0].append(cell)
            failed += measured(processes, Solved, groups.values(), chosen)
    raise SystemExit(1 if failed else 0)


def _lacks(phase: int, cell: Cell, chosen: argparse.Namespace) -> bool:
    return phase == 0 and not is_allocation(folder_of(cell["table"], cell["model"], chosen))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=Path, required=True, help="folder where sensitivities and tables are kept")
    parser.add_argument("--tables", nargs="+", default=["paper"], choices=list(TABLES), metavar="NAME")
    parser.add_argument("--recipes", nargs="+", default=[], help="of each table; all by default")
    parser.add_argument("--solvers", nargs="+", default=[], choices=list(SOLVERS), metavar="NAME")
    parser.add_argument("--averages", nargs="+", default=[], help="of each table; all by default; also such as w2a4")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--trial-images", type=int, default=TRIAL_IMAGES)
    parser.add_argument("--whole-models", type=int, default=64, help="that evolution measures")
    parser.add_argument("--images", type=int, default=1000, help="for validation")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no cell after so many")
    add_processes(parser, "processes for one model, behind its trials")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

"""Measure recipes on real models by a suite, `vitq compare`, and keep its rows in a JSONL file.

    python benchmarks/mgrq.py run --data ../shared/data --only 'repq w8a8'
    python benchmarks/mgrq.py table

What the results file has already is kept as it is, and so is what the suite's store has.
"""

import argparse
from pathlib import Path
from typing import Any

import mgrq_tables as tables
from chart import Chart
from command import append, rows, run_or_table, vitq
from grid import NAMES

HERE = Path(__file__).parent
SUITE, RESULTS = HERE.parent / "suites" / "local.yaml", HERE / "results" / "mgrq.jsonl"
PEERS, FILES = RESULTS.with_name("peers.jsonl"), RESULTS.with_name("deploy.jsonl")
VIEWS = {view.__name__: view for view in (tables.recipes, tables.settings, tables.no_images)}
KEYS = ("model", "recipe", "tag", "bits", "budget", "seed")
KEPT = ("images", "device", "seconds", "peak_memory_bytes", "mean_segment_error", "size_bytes", "fp_size_bytes")
MODELS = {name: model for model, name in NAMES.items()}


def row_of(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell of the suite as a row; its recipe "mgrq, 100 steps" is recipe ``mgrq`` with tag 100."""
    recipe, _, tag = cell["recipe"].partition(", ")
    named = {**cell, "model": MODELS[cell["model"]], "recipe": recipe, "tag": tag.removesuffix(" steps")}
    return {**{key: named[key] for key in KEYS}, "top1": cell["scores"]["top1"], **{key: cell[key] for key in KEPT}}


def run(chosen: argparse.Namespace) -> None:
    """Measure what is asked for of the suite, and append what the results do not have yet."""
    only = [] if chosen.only is None else ["--only", chosen.only]
    where = ("--data", str(chosen.data), "--store", str(chosen.store), "--device", chosen.device)
    found = vitq("compare", str(SUITE), *where, "--jobs", str(chosen.jobs), *only)
    known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    for row in [row_of(cell) for cell in found["cells"] if cell["bits"] in tables.BITS]:
        if tuple(row[key] for key in KEYS) not in known:
            append(chosen.results, row)
            print(row, flush=True)


def table(chosen: argparse.Namespace) -> None:
    """Print one view of the results as Markdown."""
    print(VIEWS[chosen.view](rows(chosen.results), rows(PEERS), rows(FILES)))


def figure(chosen: argparse.Namespace) -> Chart:
    """Return top-1 over the size of an artifact."""
    return tables.size_chart(rows(chosen.results), rows(PEERS))


def views(parser: argparse.ArgumentParser) -> None:
    """Add what ``table`` and ``figure`` take."""
    parser.add_argument("--view", choices=list(VIEWS), default="recipes")


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("runs/store"), help="where runs and results are kept")
    parser.add_argument("--only", metavar="GLOB", help="cells, as vitq compare takes them; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views, figure)

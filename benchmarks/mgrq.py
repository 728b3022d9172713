"""Measure recipes on real models by a suite, `vitq compare`, and keep its rows in a JSONL file.

    python benchmarks/mgrq.py run --data ../shared/data --only 'repq w8a8'
    python benchmarks/mgrq.py table

What the results file has already is kept as it is, and so is what the suite's store has.
"""

import argparse
from pathlib import Path

import mgrq_tables as tables
from chart import Chart
from command import Row, add_suite, append_cells, rows, run_or_table
from grid import MODELS

HERE = Path(__file__).parent
SUITE, RESULTS = HERE.parent / "suites" / "local.yaml", HERE / "results" / "mgrq.jsonl"
PEERS, FILES, MIXED = (RESULTS.with_name(f"{name}.jsonl") for name in ("peers", "deploy", "allocate"))
OTHERS = [RESULTS.with_name(f"{name}.jsonl") for name in ("mptq", "record")]
OF_CHART = ("activations", "budgets")
"""Tables of other scripts whose rows have the scope of these, and top-1."""
VIEWS = {
    "recipes": lambda measured: tables.recipes(measured, rows(PEERS)),
    "settings": lambda measured: tables.settings(measured, rows(FILES), rows(MIXED)),
    "no_images": tables.no_images,
}
"""What each view prints of the rows of the results file."""
KEYS = ("model", "recipe", "tag", "bits", "budget", "seed")
KEPT = ("images", "device", "seconds", "peak_memory_bytes", "mean_segment_error", "size_bytes", "fp_size_bytes")


def row_of(cell: Row) -> Row:
    """Return a cell of the suite as a row; its recipe "mgrq, 100 steps" is recipe ``mgrq`` with tag 100."""
    recipe, _, tag = cell["recipe"].partition(", ")
    named = {**cell, "model": MODELS[cell["model"]], "recipe": recipe, "tag": tag.removesuffix(" steps")}
    return {**{key: named[key] for key in KEYS}, "top1": cell["scores"]["top1"], **{key: cell[key] for key in KEPT}}


def run(chosen: argparse.Namespace) -> None:
    """Measure what is asked for of the suite, and append what the results do not have yet."""
    append_cells(SUITE, chosen, row_of, KEYS)


def table(chosen: argparse.Namespace) -> None:
    """Print one view of the results as Markdown."""
    print(VIEWS[chosen.view](rows(chosen.results)))


def figure(chosen: argparse.Namespace) -> Chart:
    """Return top-1 over the size of an artifact."""
    variants = [row for path in OTHERS for row in rows(path) if row["table"] in OF_CHART]
    return tables.size_chart(rows(chosen.results), rows(PEERS), variants)


def views(parser: argparse.ArgumentParser) -> None:
    """Add what ``table`` and ``figure`` take."""
    parser.add_argument("--view", choices=list(VIEWS), default="recipes")


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    add_suite(parser)


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views, figure)

"""Take reconstruction apart: pieces, what is compared, terms; measured by a suite, `vitq compare`.

    python benchmarks/reconstruction.py run --data ../shared/data --only '*, block w3a3*'
    python benchmarks/reconstruction.py table

The variants are those of suites/reconstruction.yaml. A row has top-1 on the validation images, and what 200 calibration
images that were not used say: KL to floating point and the error of the final feature. Rows that are in the results are
kept as they are.
"""

import argparse
import re
import statistics
from itertools import product
from pathlib import Path
from typing import Any

from chart import Chart, Series
from command import Row, add_suite, append_cells, rows, run_or_table
from grid import MODELS as BY_NAME
from grid import grid, model_name
from judging import MODELS

HERE = Path(__file__).parent
SUITE, RESULTS = HERE.parent / "suites" / "reconstruction.yaml", HERE / "results" / "reconstruction.jsonl"
KEYS = ("variant", "model", "bits", "seed", "steps", "train")
STEPS, IMAGES = 100, 800
"""Of a recipe whose name in the suite says nothing else."""


def row_of(cell: Row) -> Row:
    """Return a cell of the suite as a row; its recipe "mgrq, 2 blocks, 400 steps" is that variant with 400 steps."""
    named: Row = {"steps": STEPS, "train": IMAGES}
    variant, what = cell["recipe"], {"steps": "steps", "images": "train"}
    if found := re.fullmatch(r"(.*), (\d+) (steps|images)", variant):
        variant, named[what[found[3]]] = found[1], int(found[2])
    held_out = cell["held_out"]
    return {
        "variant": variant, "model": BY_NAME[cell["model"]], "bits": cell["bits"], "seed": cell["seed"], **named,
        "seconds": round(cell["seconds"], 1), "device": cell["device"], "kl": held_out["distance"],
        "agreement": held_out["agreement"], "feature_error": held_out["feature_error"], "top1": cell["scores"]["top1"],
    }  # fmt: skip


def run(chosen: argparse.Namespace) -> None:
    """Measure what is asked for of the suite, and append what the results do not have yet."""
    append_cells(SUITE, chosen, row_of, KEYS)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: top-1 (± deviation, seeds), held-out KL and feature error, minutes (device)."""
    measured = [row for row in rows(chosen.results) if asked(row, chosen)]
    columns = [c for c in product(MODELS, ("w4a4", "w3a3")) if any((r["model"], r["bits"]) == c for r in measured)]
    heads = [f"{model_name(model)} {bits.upper()}" for model, bits in columns]
    for steps, train in sorted({(row["steps"], row["train"]) for row in measured}):
        own = [row for row in measured if (row["steps"], row["train"]) == (steps, train)]
        print(f"\n{steps} steps a block in total, {train} images; top-1 in % / KL / error of the final feature:\n")
        lines = []
        for variant in chosen.variants or dict.fromkeys(row["variant"] for row in own):
            if mine := [row for row in own if row["variant"] == variant]:
                cells = [_cell([r for r in mine if (r["model"], r["bits"]) == c]) for c in columns]
                minutes = statistics.median(row["seconds"] for row in mine) / 60
                devices = ", ".join(sorted({row["device"] for row in mine}))
                lines.append((variant, *cells, f"{minutes:.1f} ({devices})"))
        print(grid(("variant", *heads, "minutes"), lines))


def figure(chosen: argparse.Namespace) -> Chart:
    """Return bars of the held-out KL of each variant, seed 0, for each model, at one bit-width and number of steps."""
    found = [row for row in rows(chosen.results) if asked(row, chosen) and row["seed"] == 0]
    if len({(row["bits"], row["steps"], row["train"]) for row in found}) != 1 or chosen.name is None:
        raise SystemExit("a figure has a --name, and one of --at-bits, --at-steps and --at-train")
    names = tuple(chosen.variants)
    kl = {(row["variant"], row["model"]): round(row["kl"], 3) for row in found}
    series = tuple(
        Series(model_name(m), tuple(n.replace(", ", ",\n") for n in names), tuple(kl[n, m] for n in names))
        for m in MODELS
    )
    return Chart(chosen.name, f"Held-out KL, {found[0]['bits'].upper()}", "", "KL to floating point", series)


def _cell(group: list[dict[str, Any]]) -> str:
    if not group:
        return "–"
    top1, kl, error = ([row[key] for row in group] for key in ("top1", "kl", "feature_error"))
    spread = f" ± {statistics.stdev(top1):.1f} ({len(top1)})" if len(top1) > 1 else ""
    return f"{statistics.mean(top1):.1f}{spread} / {statistics.mean(kl):.3f} / {statistics.mean(error):.3f}"


def asked(row: dict[str, Any], chosen: argparse.Namespace) -> bool:
    """Whether a row is one of those that the command line asks for."""
    wanted = (
        ("variant", chosen.variants),
        ("bits", chosen.at_bits),
        ("steps", chosen.at_steps),
        ("train", chosen.at_train),
    )
    return all(not values or row[key] in values for key, values in wanted)


def views(parser: argparse.ArgumentParser) -> None:
    """Add what ``table`` and ``figure`` take."""
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="in this order; all by default")
    parser.add_argument("--at-bits", nargs="+", metavar="W4A4")
    parser.add_argument("--at-steps", nargs="+", type=int)
    parser.add_argument("--at-train", nargs="+", type=int)
    parser.add_argument("--name", help="of the figure's file")


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    add_suite(parser)


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views, figure)

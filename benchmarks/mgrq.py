"""Measure recipes on real models: one `vitq quantize` and one `vitq evaluate` per cell, appended to a JSONL file.

    python benchmarks/mgrq.py run --data ../shared/data --recipes rtn repq --bits w8a8 w6a6
    python benchmarks/mgrq.py table

A cell that is already in the results file is not run again. Every cell is a process of its own, so its peak memory is
its own. `--tag` names a variant that `--set` makes (the ablation). `--jobs` cells run at a time.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import mgrq_tables as tables
from chart import Chart
from command import append, each, rows, run_or_table, vitq

RESULTS = Path(__file__).parent / "results" / "mgrq.jsonl"
PEERS, FILES = RESULTS.with_name("peers.jsonl"), RESULTS.with_name("deploy.jsonl")
VIEWS = {view.__name__: view for view in (tables.recipes, tables.settings)}
MODELS = ("deit_tiny_patch16_224", "vit_tiny_patch16_224")
KEYS = ("model", "recipe", "tag", "bits", "budget", "seed")


def measure(cell: dict[str, Any], data: Path, settings: list[str], device: str) -> dict[str, Any]:
    """Quantize and evaluate one cell."""
    source = ["--weights", str(data / "weights" / f"{cell['model']}.safetensors"), "--crop-pct", "0.875"]
    with tempfile.TemporaryDirectory() as folder:
        options = [x for s in settings for x in ("--set", s)]
        run = vitq(
            *("quantize", cell["model"], *source, "--images", str(data / "imagenet-calibration")),
            *("--recipe", cell["recipe"], "--bits", cell["bits"], "--budget", cell["budget"], "--device", device),
            *("--seed", str(cell["seed"]), "--out", f"{folder}/run", *options),
        )
        score = vitq("evaluate", f"{folder}/run", "--images", str(data / "imagenet-validation"), "--device", device)
    kept = ("seconds", "peak_memory_bytes", "mean_segment_error", "size_bytes", "fp_size_bytes")
    scores = {"top1": score["top1"], "images": score["images"], "device": device}
    return {**cell, "settings": settings, **scores, **{k: run[k] for k in kept}}


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet."""
    known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    wanted = [
        (model, recipe, chosen.tag, bits, chosen.budget, seed)
        for seed in chosen.seeds
        for bits in chosen.bits
        for model in chosen.models
        for recipe in chosen.recipes
    ]

    def work(cell: dict[str, Any]) -> None:
        began = time.monotonic()
        row = measure(cell, chosen.data, chosen.set, chosen.device)
        append(chosen.results, row)
        print(f"{cell} top-1 {row['top1']:.1f} in {time.monotonic() - began:.0f} s", flush=True)

    each([dict(zip(KEYS, values, strict=True)) for values in wanted if values not in known], work, chosen.jobs)


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
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--recipes", nargs="+", default=["rtn", "repq", "brecq", "qdrop", "mgrq"])
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w6a6", "w4a4", "w3a3"])
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tag", default="")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views, figure)

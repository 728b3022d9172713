"""Measure recipes on real models: one `vitq quantize` and one `vitq evaluate` per cell, appended to a JSONL file.

    python benchmarks/mgrq.py run --data ../shared/data --recipes rtn repq --bits w8a8 w6a6
    python benchmarks/mgrq.py table

A cell that is already in the results file is not run again. Every cell is a process of its own, so its peak memory is
its own. `--tag` names a variant that `--set` makes (the ablation). `--jobs` cells run at a time.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from command import append, each, rows, run_or_table, vitq

RESULTS = Path(__file__).parent / "results" / "mgrq.jsonl"
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
    """Print the results as Markdown: mean top-1 over seeds (spread, number of seeds), minutes, peak memory."""
    measured = rows(chosen.results)
    for model in MODELS:
        bits = sorted({r["bits"] for r in measured if r["model"] == model}, reverse=True)
        groups: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for row in measured:
            if row["model"] == model:
                groups[row["recipe"], row["tag"], row["budget"]][row["bits"]].append(row)
        print(f"\n### {model}\n\n| recipe | {' | '.join(b.upper() for b in bits)} | minutes | peak GiB |")
        print("|---|" + "---|" * (len(bits) + 2))
        for (recipe, tag, _budget), by_bits in groups.items():
            cells = [_cell(by_bits[b]) for b in bits]
            flat = [row for group in by_bits.values() for row in group]
            minutes = statistics.median(r["seconds"] for r in flat) / 60
            peak = max(r["peak_memory_bytes"] for r in flat) / 2**30
            print(f"| {recipe} {tag} | {' | '.join(cells)} | {minutes:.1f} | {peak:.1f} |")


def _cell(group: list[dict[str, Any]]) -> str:
    if not group:
        return "–"
    scores = [row["top1"] for row in group]
    spread = f" ± {statistics.stdev(scores):.1f} ({len(scores)} seeds)" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


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
    run_or_table(__doc__, options, run, table, RESULTS)

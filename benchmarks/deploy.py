"""Measure exported files: speed against floating point and the runtimes' own int8, size, and accuracy of the file.

    python benchmarks/deploy.py run --data ../shared/data --runs /tmp/runs
    python benchmarks/deploy.py run --data ../shared/data --runs /tmp/runs --random --models vit_base_patch16_224
    python benchmarks/deploy.py table

Every model is quantized at each bit-width for a target into the folder of --runs (what is there already is taken), then
all files run interleaved in one process; rows go to a JSONL file. With ``--random`` weights are random: speed only.
The ceiling is what the best int8 matrix product alone (ceiling.py) reaches right after, with as many threads.
"""

import argparse
from pathlib import Path

from ceiling import ceiling
from command import append, rows, run_or_table, vitq

import vitq as library
from vitq.cli.doctor.machine import processor
from vitq.graph.ops import LINEAR, is_op, value

RESULTS = Path(__file__).parent / "results" / "deploy.jsonl"


def operations(run: Path) -> float:
    """Return the operations of a model's linears for one image, in 1e9."""
    total = 0
    for node in library.load(run).graph.module.graph.nodes:
        if is_op(node, LINEAR):
            rows = value(node).shape[1:-1].numel()
            total += 2 * rows * value(node.args[1]).numel()
    return total / 1e9


def run(chosen: argparse.Namespace) -> None:
    """Quantize and measure every model."""
    calibration, validation = chosen.data / "imagenet-calibration", chosen.data / "imagenet-validation"
    for model in chosen.models:
        weights = "random" if chosen.random else str(chosen.data / "weights" / f"{model}.safetensors")
        runs = [chosen.runs / f"{model}-{chosen.target}" / bits for bits in chosen.bits]
        for path, bits in zip(runs, chosen.bits, strict=True):
            if not (path / "config.json").exists():
                vitq(
                    *("quantize", model, "--weights", weights, "--crop-pct", "0.875", "--images", str(calibration)),
                    *("--recipe", chosen.recipe, "--bits", bits, "--limit", str(chosen.limit)),
                    *("--target", chosen.target, "--out", str(path)),
                )
        if chosen.only_quantize:
            continue
        judged = [] if chosen.random else ["--validation", str(validation)]
        sizes = [x for batch in chosen.batches for x in ("--batch", str(batch))]
        more = ("--threads", str(chosen.threads), "--rounds", str(chosen.rounds))
        source = ("--floating", model, "--weights", weights)
        result = vitq("bench", *map(str, runs), "--images", str(calibration), *judged, *more, *sizes, *source)
        about = {
            "model": model,
            "random": chosen.random,
            "threads": chosen.threads,
            "target": chosen.target,
            "machine": processor().value,
            "linear_gop": operations(runs[0]),
            "ceiling_gops": ceiling(chosen.threads),
        }
        for row in result["rows"]:
            append(chosen.results, {**about, **row})
        print(f"{model}: {len(result['rows'])} rows", flush=True)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown."""
    found = rows(chosen.results)
    for group in dict.fromkeys((row["model"], row["threads"], row["machine"]) for row in found):
        mine = [row for row in found if (row["model"], row["threads"], row["machine"]) == group]
        ceiling_gops, linear_gop = mine[0]["ceiling_gops"], mine[0]["linear_gop"]
        batches = list(mine[0]["milliseconds"])
        floors = {batch: 1e3 * int(batch) * linear_gop / ceiling_gops for batch in batches}
        floor = ", ".join(f"{spent:.1f} ms at batch {batch}" for batch, spent in floors.items())
        print(f"\n### {group[0]}, {group[1]} thread(s), {group[2]}\n")
        print(f"The linears alone at the int8 ceiling of {ceiling_gops:.0f} GOPS: {floor}.\n")
        headers = [
            *(f"batch {b}, ms (times float32)" for b in batches),
            "of the ceiling, %",
            *("top-1 of the file", "MB", "memory, MiB", "integer products"),
        ]
        print(f"| runtime | model | {' | '.join(headers)} |\n|---|---|{'---|' * len(headers)}")
        for row in mine:
            times = [f"{row['milliseconds'][b]:.1f} ({row['ratios'][b]:.2f})" for b in batches]
            shares = [f"{100 * floors[b] / row['milliseconds'][b]:.0f}" for b in batches]
            share = " / ".join(shares) if row["integer_products"] else "–"
            top1 = "–" if row["top1"] is None else f"{row['top1']:.1f}"
            size, memory = f"{row['size_bytes'] / 1e6:.1f}", f"{row['memory_bytes'] / 2**20:.0f}"
            cells = [row["runtime"], row["name"], *times, share, top1, size, memory, str(row["integer_products"])]
            print(f"| {' | '.join(cells)} |")


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where artifacts are, or are put")
    parser.add_argument("--only-quantize", action="store_true", help="make the artifacts, measure nothing")
    parser.add_argument("--models", nargs="+", default=["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a8", "w4a4", "w3a3"])
    parser.add_argument("--recipe", default="repq")
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

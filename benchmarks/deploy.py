"""Measure exported files: speed against floating point and the runtimes' own int8, size, and accuracy of the file.

    python benchmarks/deploy.py run --data ../shared/data --bits w8a8 w4a8
    python benchmarks/deploy.py run --data ../shared/data --models vit_base_patch16_224 --random
    python benchmarks/deploy.py table

Every model is quantized at each bit-width for a target, then all files run interleaved in one process; rows go to a
JSONL file. With ``--random`` weights are random: speed only.
"""

import argparse
import json
import tempfile
from pathlib import Path

from command import vitq

RESULTS = Path(__file__).parent / "results" / "deploy.jsonl"


def run(options: argparse.Namespace) -> None:
    """Quantize and measure every model."""
    calibration, validation = options.data / "imagenet-calibration", options.data / "imagenet-validation"
    RESULTS.parent.mkdir(exist_ok=True)
    for model in options.models:
        weights = "random" if options.random else str(options.data / "weights" / f"{model}.safetensors")
        with tempfile.TemporaryDirectory() as folder:
            for bits in options.bits:
                vitq(
                    *("quantize", model, "--weights", weights, "--crop-pct", "0.875", "--images", str(calibration)),
                    *("--recipe", options.recipe, "--bits", bits, "--limit", str(options.limit)),
                    *("--target", options.target, "--out", f"{folder}/{bits}"),
                )
            runs = [f"{folder}/{bits}" for bits in options.bits]
            judged = [] if options.random else ["--validation", str(validation)]
            sizes = [x for batch in options.batches for x in ("--batch", str(batch))]
            more = ("--threads", str(options.threads), "--rounds", str(options.rounds))
            result = vitq("bench", *runs, "--images", str(calibration), *judged, *more, *sizes)
        with RESULTS.open("a") as file:
            for row in result["rows"]:
                about = {"model": model, "random": options.random, "threads": options.threads, "target": options.target}
                file.write(json.dumps({**about, **row}) + "\n")
        print(f"{model}: {len(result['rows'])} rows", flush=True)


def table(_: argparse.Namespace) -> None:
    """Print the results as Markdown."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        batches = list(mine[0]["milliseconds"])
        print(f"\n### {model}, {mine[0]['threads']} thread(s)\n")
        headers = [*(f"batch {b}, ms (times float32)" for b in batches), "top-1 of the file", "MB", "integer products"]
        print(f"| runtime | model | {' | '.join(headers)} |\n|---|---|{'---|' * len(headers)}")
        for row in mine:
            times = [f"{row['milliseconds'][b]:.1f} ({row['ratios'][b]:.2f})" for b in batches]
            top1 = "–" if row["top1"] is None else f"{row['top1']:.1f}"
            size = f"{row['size_bytes'] / 1e6:.1f}" if row["size_bytes"] else "–"
            cells = [row["runtime"], row["name"], *times, top1, size, str(row["integer_products"])]
            print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runner = verbs.add_parser("run", help="measure models")
    runner.add_argument("--data", type=Path, required=True)
    runner.add_argument("--models", nargs="+", default=["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
    runner.add_argument("--random", action="store_true")
    runner.add_argument("--bits", nargs="+", default=["w8a8", "w4a8", "w4a4", "w3a3"])
    runner.add_argument("--recipe", default="repq")
    runner.add_argument("--target", default="openvino")
    runner.add_argument("--limit", type=int, default=1000)
    runner.add_argument("--threads", type=int, default=1)
    runner.add_argument("--rounds", type=int, default=20)
    runner.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    runner.set_defaults(call=run)
    verbs.add_parser("table", help="print the tables").set_defaults(call=table)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()

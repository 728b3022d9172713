"""Measure the files of a model that gives a map: proof, size, speed and accuracy beside bfloat16 and NNCF's int8.

    python benchmarks/outputs_files.py run --data ../shared/data --focus FOCUS --runs /tmp/runs
    python benchmarks/outputs_files.py table

FOCUS is the folder of outputs.py. Each recipe's model is kept in the folder of --runs (what is there already is taken),
its file is proven for both runtimes, then all files run interleaved in one process. The difference is the mean absolute
one of the map from floating point's on validation images.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from command import Row, append, rows, run_or_table
from grid import grid, number
from outputs import CHUNK, SCORED, focus, maps

import vitq
from vitq.bench.bench import bench
from vitq.data import draw_calibration, load_labelled, open_images
from vitq.models import Preprocessing
from vitq.run.inputs import load_source

RESULTS = Path(__file__).parent / "results" / "outputs_files.jsonl"
BITS, CALIBRATION, PROVEN = "w8a8", 40, 16
RUNTIMES = ("onnxruntime", "openvino")


def kept(chosen: argparse.Namespace, model: torch.nn.Module, recipe: str) -> vitq.QuantizedModel:
    """Return a recipe's model from its folder, which is made where it is missing."""
    folder = chosen.runs / f"focus-{recipe}-{BITS}"
    if not (folder / "config.json").exists():
        quantized = vitq.quantize(
            model,
            chosen.data / "imagenet-calibration",
            preprocessing=Preprocessing(),
            recipe=recipe,
            bits=BITS,
            limit=CALIBRATION,
            target="onnxruntime",
            progress=False,
        )
        quantized.save(folder)
    return vitq.load(folder)


def proven(quantized: vitq.QuantizedModel, chosen: argparse.Namespace, recipe: str) -> Row:
    """Export for both runtimes and return what the proofs say; ExportError for a file that fails its own."""
    found: Row = {}
    for runtime in RUNTIMES:
        path = chosen.runs / f"focus-{recipe}-{runtime}.onnx"
        written = quantized.export(path, chosen.data / "imagenet-calibration", target=runtime, limit=PROVEN)
        assert written.end is not None
        found[runtime] = {
            "integer": [written.integer_products, written.promised],
            "convolutions": [written.integer_convolutions, written.promised_convolutions],
            "segments": len(written.segments),
            "end": asdict(written.end),
        }
    return found


def run(chosen: argparse.Namespace) -> None:
    """Measure all files, and append a row for each."""
    torch.set_num_threads(chosen.threads)
    model = focus(chosen)
    runs = {recipe: kept(chosen, model, recipe) for recipe in chosen.recipes}
    proofs = {recipe: proven(quantized, chosen, recipe) for recipe, quantized in runs.items()}
    print(proofs, flush=True)
    images = open_images(chosen.data / "imagenet-validation")
    labelled = [
        (x_BCHW, maps(model, x_BCHW)[:, None])
        for x_BCHW, _ in load_labelled(images, Preprocessing(), SCORED, batch_size=CHUNK)
    ]
    source = open_images(chosen.data / "imagenet-calibration", labels=False, limit=64)
    x_NCHW = draw_calibration(source, Preprocessing(), limit=64)
    measured = bench(
        {recipe: quantized.artifact for recipe, quantized in runs.items()},
        x_NCHW,
        batches=chosen.batches,
        threads=chosen.threads,
        rounds=chosen.rounds,
        labelled=labelled,
        floating=load_source(model, None, None, None),
        task="dense",
    )
    about = {"bits": BITS, "threads": chosen.threads, "rounds": chosen.rounds, "limit": CALIBRATION, "seed": 0}
    for one in measured:
        row = {**about, **asdict(one), "proof": proofs.get(one.name, {}).get(one.runtime), "images": SCORED}
        append(chosen.results, row)
        print(row, flush=True)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown."""
    cells = []
    for row in rows(chosen.results):
        spent = " / ".join(number(value, 0) for value in row["milliseconds"].values())
        ratio = " / ".join(f"{value:.2f}" for value in row["ratios"].values())
        near = f"{row['scores']['mae']:.4f} / {row['scores']['iou'] / 100:.3f}" if row["scores"] else "–"
        products = str(row["integer_products"])
        cells.append((row["runtime"], row["name"], number(row["size_bytes"] / 1e6), products, spent, ratio, near))
    heads = ("runtime", "file", "MB", "integer products", "ms", "times as fast as float32", "difference / IoU")
    print(grid(heads, cells))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--focus", type=Path, required=True, help="folder that focus_vit_small.py made")
    parser.add_argument("--runs", type=Path, required=True, help="where models and files are, or are put")
    parser.add_argument("--recipes", nargs="+", default=["repq", "mptq-vit"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

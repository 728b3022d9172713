"""Measure the integer executor against floating point in eager PyTorch: speed only, random weights and images.

    python benchmarks/integer.py run --models deit_small_patch16_224 --batch 64 --device cuda
    python benchmarks/integer.py table

Each model is rounded to W8A8 by `rtn`, for the scope of deployment (linears and convolutions). Float32, half precision
(float16 on a GPU, bfloat16 on a CPU), the simulation and the integer executor, whose linears multiply integers, then
run in turn in one process; a row holds the median of each.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from command import append, rows, run_or_table
from grid import grid
from torch import nn

import vitq
from vitq.devices import choose_device
from vitq.run.inputs import load_source

RESULTS = Path(__file__).parent / "results" / "integer.jsonl"
KINDS = ("float32", "half", "simulation", "integer")


def timed(model: nn.Module, x_NCHW: torch.Tensor) -> float:
    """Return the milliseconds of one call; the sum is read back, so the device has finished."""
    began = time.perf_counter()
    model(x_NCHW).sum().item()
    return 1e3 * (time.perf_counter() - began)


@torch.no_grad()
def medians(models: Mapping[str, nn.Module], x_NCHW: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return the median time of each model, run in turn; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 2):
        for name, model in models.items():
            spent = timed(model, x_NCHW.to(next(model.parameters()).dtype))
            if number >= 2:
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


def run(chosen: argparse.Namespace) -> None:
    """Measure every model at every batch size."""
    device = choose_device(chosen.device)
    if device.type == "cpu":
        torch.set_num_threads(chosen.threads)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {chosen.threads} thread(s)"
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    for model in chosen.models:
        source = load_source(model, "random", None, None)
        x_NCHW = torch.randn(max(chosen.batch), *source.preprocessing.input_size)
        artifact = vitq.quantize(source, x_NCHW[:8], recipe="rtn", bits="w8a8", scope="deploy", progress=False)
        artifact.to(device)
        x_NCHW = x_NCHW.to(device)
        models = {
            "float32": copy.deepcopy(source.module).to(device),
            "half": copy.deepcopy(source.module).to(device, half),
            "simulation": artifact.graph.module,
            "integer": artifact.integer(),
        }
        for batch in chosen.batch:
            found = medians(models, x_NCHW[:batch], chosen.rounds)
            row = {"model": model, "device": name, "batch": batch, "recipe": "rtn", "seed": 0, "rounds": chosen.rounds}
            row |= {"torch": torch.__version__, "milliseconds": found}
            append(chosen.results, row)
            print(json.dumps(row), flush=True)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: milliseconds, and how many times as fast as float32."""
    lines = []
    for row in rows(chosen.results):
        spent = row["milliseconds"]
        cells = [f"{spent[kind]:.1f} ({spent['float32'] / spent[kind]:.2f})" for kind in KINDS]
        lines.append((row["model"], row["device"], str(row["batch"]), *cells))
    print(grid(("model", "device", "batch", *KINDS), lines))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--models", nargs="+", default=["deit_tiny_patch16_224", "deit_small_patch16_224"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--rounds", type=int, default=20)


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

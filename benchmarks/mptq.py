"""Measure what calibration alone gives: rewrites and number formats, everything quantized, weights alone.

    python benchmarks/mptq.py run --data ../shared/data --jobs 2
    python benchmarks/mptq.py run --data ../shared/data --tables weights --models deit_tiny_patch16_224
    python benchmarks/mptq.py table

A row has top-1 on the validation images (not in the table ``starts``, which chooses), what 200 calibration images that
were not used say (KL to floating point and the error of the final feature), and the processor's seconds that quantizing
took. Rows that are in the results are not measured again.
"""

import argparse
import time
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from command import append, rows, run_or_table
from grid import grid, model_name
from matrix import HELD_OUT, MODELS, ends, images, judge

from vitq.activations import CPU_CHUNK
from vitq.bits import Bits
from vitq.devices import choose_device
from vitq.evaluation import measure
from vitq.recipes import load_recipe
from vitq.run.events import Events
from vitq.run.inputs import capture_checked
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run

RESULTS = Path(__file__).parent / "results" / "mptq.jsonl"
KEYS = ("table", "variant", "model", "bits", "seed")
CODEBOOK = {"insert.weight.format": "codebook"}
HESSIAN = {"calibrate.weights": "hessian", "calibrate.activations": "hessian"}
FULL = {"insert.scope": "full"}
GELU, PROBABILITIES = "insert.post_activation.format", "insert.probabilities.format"
TWIN = {GELU: "twin", PROBABILITIES: "twin"}
TABLES: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, dict[str, Any]]]]] = {
    "activations": (
        ("w4a4", "w6a6"),
        {
            "rtn": ("rtn", {}),
            "smoothquant": ("smoothquant", {}),
            "sq-b": ("sq-b", {}),
            "opt-m": ("rtn", {**TWIN, "calibrate.activations": "output"}),
            "mptq-vit": ("mptq-vit", {}),
            "mptq-vit by hessian": ("mptq-vit", HESSIAN),
            "ptq4vit": ("ptq4vit", {}),
            "noisyquant": ("noisyquant", {}),
            "adalog": ("adalog", {}),
            "repq": ("repq", {}),
        },
    ),
    "full": (("w8a8", "w6a6"), {"fq-vit": ("fq-vit", {}), "mptq-vit": ("mptq-vit", FULL)}),
    "weights": (
        ("w4a32", "w3a32", "w2a32"),
        {"rtn": ("rtn", {}), "pwlq": ("pwlq", {}), "subsetq": ("subsetq", {}), "codebook": ("rtn", CODEBOOK)},
    ),
    "starts": (
        ("w4a4", "w3a3"),
        {
            "repq": ("repq", {}),
            **{f"repq, {name} behind GELUs": ("repq", {GELU: name}) for name in ("twin", "adalog")},
            **{
                f"repq, {name} probabilities": ("repq", {PROBABILITIES: name})
                for name in ("twin", "adalog", "shift_uniform_log2", "matthew")
            },
        },
    ),
}
"""Per table its bits, and the recipe and options of each row."""
SEED_IMAGES = 64
"""Each seed begins with so many other calibration images: no recipe takes more."""
CHOOSES = frozenset({"starts"})
"""Tables that choose a recipe's parts: no validation image is read for them."""


def work(cells: list[dict[str, Any]], chosen: argparse.Namespace) -> int:
    """Measure cells of one model, one after another, and return how many failed."""
    torch.set_num_threads(chosen.threads)
    source, x_NCHW, x_val, labels = images(cells[0]["model"], chosen)
    device, failed = choose_device(chosen.device), 0
    teacher, x_calibration, x_held_out = capture_checked(source, x_NCHW, device), *x_NCHW.tensor_split([-HELD_OUT])
    like = ends(teacher, x_held_out, device)
    for cell in cells:
        recipe, options = TABLES[cell["table"]][1][cell["variant"]]
        began = time.process_time()
        try:
            with Events(None, console=False) as events:
                run = Run(
                    teacher, teacher.clone(), x_calibration, Bits.parse(cell["bits"]), cell["seed"], device, events
                )
                apply_steps(run, load_recipe(recipe, overrides=options).steps)
            row = {**cell, "seconds": round(time.process_time() - began, 1), **judge(run, x_held_out, like)}
            if cell["table"] not in CHOOSES:
                batches = zip(x_val.split(CPU_CHUNK), labels.split(CPU_CHUNK), strict=True)
                row |= {"top1": measure(run.student, batches, device)[0].top1, "images": len(x_val)}
        except Exception:
            failed += 1
            print(f"{cell} failed: {traceback.format_exc()}", flush=True)
            continue
        append(chosen.results, row)
        print(row, flush=True)
    return failed


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; each of ``--jobs`` processes has cells of one model."""
    known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for seed, name, model in product(chosen.seeds, chosen.tables, chosen.models):
        widths, variants = TABLES[name]
        for number, (bits, variant) in enumerate(product(widths, variants)):
            values = (name, variant, model, bits, seed)
            asked = (not chosen.variants or variant in chosen.variants) and (not chosen.bits or bits in chosen.bits)
            if asked and values not in known:
                groups[model, number % chosen.split].append(dict(zip(KEYS, values, strict=True)))
    for model in {group[0] for group in groups}:
        images(model, chosen)  # decoded once, before processes would do it side by side
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        failed = sum(done.result() for done in as_completed([pool.submit(work, c, chosen) for c in groups.values()]))
    raise SystemExit(1 if failed else 0)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: top-1, held-out KL, and the most processor seconds that quantizing took."""
    measured = rows(chosen.results)
    for name, (widths, variants) in TABLES.items():
        own_rows = [row for row in measured if row["table"] == name]
        known = {(row["model"], row["bits"]) for row in own_rows}
        columns = [column for column in product(MODELS, widths) if column in known]
        if not columns:
            continue
        heads = [f"{model_name(model)} {bits.upper()}" for model, bits in columns]
        lines = []
        for variant in variants:
            own = [row for row in own_rows if row["variant"] == variant]
            if not own:
                continue
            cells = [[r for r in own if (r["model"], r["bits"]) == column] for column in columns]
            longest = max(row["seconds"] for row in own)
            lines.append((f"`{variant}`", *map(_cell, cells), f"{longest:.0f}"))
        print(f"\n{grid((name, *heads, 'CPU seconds'), lines)}")


def _cell(group: list[dict[str, Any]]) -> str:
    if not group:
        return "–"
    found = []
    for key, digits in (("top1", 1), ("kl", 3)):
        values = torch.tensor([row[key] for row in group if key in row])
        spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
        found += [f"{values.mean():.{digits}f}{spread}"] if len(values) else []
    return " / ".join(found)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES), metavar="NAME")
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="rows; all by default")
    parser.add_argument("--bits", nargs="+", default=[], help="of each table; all by default")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--split", type=int, default=1, help="processes for one model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/vitq-matrix"), help="where decoded images are kept")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

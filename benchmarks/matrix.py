"""Measure many variants of reconstruction at equal total steps, in few processes: each calibrates once for all of them.

    python benchmarks/matrix.py run --data ../shared/data --steps 100 --variants unit block pfcr oas mgrq --bits w3a3
    python benchmarks/matrix.py table

Variants are listed in variants.yaml. ``--steps`` is for a block: a variant with fewer or more segments gets as many in
total, trials included. A row has top-1 on the validation images, and what 200 calibration images that were not used
say: KL to floating point and the error of the final feature. Rows that are in the results are not measured again.
"""

import argparse
import fcntl
import json
import statistics
import time
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from command import run_or_table

from vitq.bits import Bits
from vitq.data import load_labelled, open_images
from vitq.devices import choose_device
from vitq.events import Events
from vitq.graph import Graph
from vitq.inputs import capture_checked, draw_images, load_source
from vitq.measure import measure
from vitq.pipeline import apply_steps
from vitq.recipes import load_recipe
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.activations import forward_all
from vitq.reconstruct.choose import Choose
from vitq.reconstruct.distances import divergence, relative_square
from vitq.reconstruct.schedule import plan
from vitq.reconstruct.slicings import candidates
from vitq.run import Run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "matrix.jsonl"
MODELS = ("deit_tiny_patch16_224", "vit_tiny_patch16_224")
KEYS = ("variant", "model", "bits", "seed", "steps", "train")
HELD_OUT = 200


def images(model: str, chosen: argparse.Namespace) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the model, all calibration images in the order of seed 0, validation images and their labels."""
    source = load_source(model, chosen.data / "weights" / f"{model}.safetensors", None, {"crop_pct": 0.875})
    kept = chosen.cache / f"{model}.pt"
    if not kept.exists():
        with Events(None, console=False) as events:
            _, x_NCHW = draw_images(source, chosen.data / "imagenet-calibration", False, 1000, 1, 0, events)
        labelled = open_images(chosen.data / "imagenet-validation")
        batches = list(load_labelled(labelled, source.preprocessing, None, batch_size=100))
        parts = (x_NCHW, *(torch.cat(part) for part in zip(*batches, strict=True)))
        chosen.cache.mkdir(parents=True, exist_ok=True)
        torch.save(parts, kept)
    return source, *torch.load(kept, mmap=True)


def work(cells: list[dict[str, Any]], chosen: argparse.Namespace) -> int:
    """Measure cells of one model, one after another, and return how many were."""
    torch.set_num_threads(chosen.threads)
    device, count = choose_device(chosen.device), 0
    source, x_NCHW, x_val, labels = images(cells[0]["model"], chosen)
    teacher = capture_checked(source, x_NCHW, device)
    starts: dict[str, Graph] = {}
    for cell in cells:
        if time.time() > chosen.until:
            break
        began = time.monotonic()
        with Events(None, console=False) as events:
            bits, train = Bits.parse(cell["bits"]), x_NCHW[: cell["train"]]
            run = Run(teacher, teacher.clone(), train, bits, cell["seed"], device, events)
            reconstruct(run, cell, starts)
        row = {**cell, "seconds": round(time.monotonic() - began, 1), "device": chosen.device}
        row |= judge(run, x_NCHW[-HELD_OUT:])
        row["top1"] = measure(run.student, zip(x_val.split(100), labels.split(100), strict=True), device)[0].top1
        with chosen.results.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        count += 1
    return count


def reconstruct(run: Run, cell: dict[str, Any], starts: dict[str, Graph]) -> None:
    """Apply the variant's recipe with the total steps of the cell; ``starts`` keeps what comes before it learns."""
    variant = yaml.safe_load((HERE / "variants.yaml").read_text())[cell["variant"]]
    steps = load_recipe(variant["recipe"], overrides=variant.get("set", {})).steps
    first = next((i for i, step in enumerate(steps) if isinstance(step, Reconstruct)), len(steps))
    key = json.dumps([cell["bits"], cell["seed"], cell["train"], [repr(step) for step in steps[:first]]])
    if key not in starts:
        apply_steps(run, steps[:first])
        starts[key] = run.student
    run.student = starts[key].clone()
    total = cell["steps"] * len(run.student.spans("block")) * variant.get("times", 1)
    pieces = sum(len(plan(run.student, s.schedule, s.order)) for s in steps[first:] if isinstance(s, Reconstruct))
    for number, step in enumerate(steps[first:]):
        run.stage = f"{number}-{step.step_name}"
        if not isinstance(step, Reconstruct):
            step.apply(run)
        elif step.choose is None:
            step.model_copy(update={"steps": round(total / pieces)}).apply(run)
        else:
            sliced(run, step, step.choose, total)


def sliced(run: Run, step: Reconstruct, options: Choose, total: int) -> None:
    """Choose a slicing and reconstruct its segments with the steps that the trials have left."""
    found = step.choice(run)
    tried = candidates(run.teacher, found.profile, options.among, options.outlier_quantiles, options.longest)
    left = total - options.steps * sum(len(slicing.pieces) for slicing in tried)
    pieces = found.best.pieces
    print(f"{found.best.name} of {found.scores}, {left} of {total} steps left", flush=True)
    step.model_copy(update={"choose": None, "steps": round(left / len(pieces))}).sweep(run, pieces)


@torch.no_grad()
def judge(run: Run, x_NCHW: torch.Tensor) -> dict[str, float]:
    """Return KL to floating point and the relative squared error of the final feature."""
    first, feature, last = run.teacher.cuts[0], run.teacher.feature, run.teacher.cuts[-1]
    ends: list[tuple[torch.Tensor, torch.Tensor]] = []
    for graph in (run.student, run.teacher):
        middle = forward_all(graph.segment(first, feature), x_NCHW, run.device)
        ends.append((middle, forward_all(graph.segment(feature, last), middle, run.device)))
    (feature_NC, logits_NK), (like_NC, like_NK) = ends
    kl, agreement = divergence(logits_NK, like_NK), (logits_NK.argmax(-1) == like_NK.argmax(-1)).float().mean()
    error = relative_square(feature_NC, like_NC)
    return {"kl": float(kl), "agreement": 100 * float(agreement), "feature_error": float(error)}


def done(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the rows measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; ``--jobs`` processes, each with cells of one model."""
    chosen.until = time.time() + chosen.minutes * 60
    known = {tuple(row[key] for key in KEYS) for row in done(chosen.results)}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for seed in chosen.seeds:
        for bits in chosen.bits:
            for model in chosen.models:
                for place, variant in enumerate(chosen.variants):
                    values = (variant, model, bits, seed, chosen.steps, chosen.train)
                    if values not in known:
                        groups[model, bits, seed, place % chosen.split].append(dict(zip(KEYS, values, strict=True)))
    failed = 0
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, cells, chosen) for cells in groups.values()]):
            if future.exception() is not None:
                failed += 1
                traceback.print_exception(future.exception())
    raise SystemExit(1 if failed else 0)


def table(_: argparse.Namespace) -> None:
    """Print the results as Markdown: top-1 (mean ± deviation over seeds) and held-out KL, per model and bits."""
    rows = done()
    columns = [
        (m, b) for b in ("w4a4", "w3a3") for m in MODELS if any(r["model"] == m and r["bits"] == b for r in rows)
    ]
    for steps, train in sorted({(row["steps"], row["train"]) for row in rows}):
        own = [row for row in rows if (row["steps"], row["train"]) == (steps, train)]
        print(f"\n{steps} steps a block in total, {train} images\n")
        print("| variant | " + " | ".join(f"{m.split('_')[0]} {b.upper()}, top-1 / KL" for m, b in columns) + " |")
        print("|---|" + "---|" * len(columns))
        for variant in dict.fromkeys(row["variant"] for row in own):
            cells = [[r for r in own if (r["variant"], r["model"], r["bits"]) == (variant, *c)] for c in columns]
            print(f"| {variant} | " + " | ".join(map(_cell, cells)) + " |")


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "–"
    scores, kl = [row["top1"] for row in rows], statistics.mean(row["kl"] for row in rows)
    spread = f" ± {statistics.stdev(scores):.1f} ({len(scores)})" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread} / {kl:.3f}"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    known = list(yaml.safe_load((HERE / "variants.yaml").read_text()))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=known, choices=known, metavar="NAME")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w3a3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=400, help="steps of a block")
    parser.add_argument("--train", type=int, default=1000 - HELD_OUT, help="calibration images")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--split", type=int, default=1, help="processes for one model, bits and seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no cell after so many")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/vitq-matrix"), help="where decoded images are kept")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table)

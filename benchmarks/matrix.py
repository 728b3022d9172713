"""Measure many variants of reconstruction at equal total steps, in few processes: each calibrates once for all of them.

    python benchmarks/matrix.py run --data ../shared/data --steps 100 --variants unit block pfcr oas mgrq --bits w3a3
    python benchmarks/matrix.py table

Variants are listed in variants.yaml. ``--steps`` is for a block: a variant with fewer or more segments gets as many in
total, trials included. A row has top-1 on the validation images, and what 200 calibration images that were not used
say: KL to floating point and the error of the final feature. Rows that are in the results are not measured again;
a variant that fails prints its error, the others go on, and the exit code is 1.
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from chart import Chart, Series
from command import append, rows, run_or_table
from grid import grid, model_name

from vitq.activations import forward_all
from vitq.bits import Bits
from vitq.data import load_labelled, open_images
from vitq.devices import choose_device
from vitq.evaluation import measure
from vitq.graph import Graph
from vitq.recipes import load_recipe
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.slicing.choose import Choose
from vitq.reconstruct.slicing.schedule import plan
from vitq.reconstruct.slicing.slicings import candidates
from vitq.reconstruct.sweep import sweep
from vitq.run.events import Events
from vitq.run.inputs import capture_checked, draw_images, load_source
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run
from vitq.tasks.distances import divergence, relative_square

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
        torch.save(parts, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    return source, *torch.load(kept, mmap=True)


def work(cells: list[dict[str, Any]], chosen: argparse.Namespace) -> int:
    """Measure cells of one model, one after another, and return how many failed."""
    torch.set_num_threads(chosen.threads)
    parts, failed = (*images(cells[0]["model"], chosen), choose_device(chosen.device)), 0
    starts: dict[str, Graph] = {}
    teacher = capture_checked(parts[0], parts[1], parts[-1])
    for cell in cells:
        if time.time() > chosen.until:
            break
        try:
            row = one(cell, teacher, parts[1:], starts) | {"device": chosen.device}
        except Exception:
            failed += 1
            print(f"{cell} failed: {traceback.format_exc()}", file=sys.stderr, flush=True)
            continue
        append(chosen.results, row)
        print(json.dumps(row), flush=True)
    return failed


def one(cell: dict[str, Any], teacher: Graph, parts: tuple[Any, ...], starts: dict[str, Graph]) -> dict[str, Any]:
    """Measure one cell; ``parts`` are calibration images, validation images, their labels and the device."""
    x_NCHW, x_val, labels, device = parts
    if cell["train"] + HELD_OUT > len(x_NCHW):
        raise ValueError(f"{cell['train']} images to train on and {HELD_OUT} held out are more than {len(x_NCHW)}")
    began = time.monotonic()
    with Events(None, console=False) as events:
        bits, train = Bits.parse(cell["bits"]), x_NCHW[: cell["train"]]
        run = Run(teacher, teacher.clone(), train, bits, cell["seed"], device, events)
        reconstruct(run, cell, starts)
    row = {**cell, "seconds": round(time.monotonic() - began, 1), **judge(run, x_NCHW[-HELD_OUT:])}
    row["top1"] = measure(run.student, zip(x_val.split(100), labels.split(100), strict=True), device)[0].top1
    return row


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
    pieces = sum(shares(run.student, s) for s in steps[first:] if isinstance(s, Reconstruct))
    for number, step in enumerate(steps[first:]):
        run.stage = f"{number}-{step.step_name}"
        if not isinstance(step, Reconstruct):
            step.apply(run)
        elif step.choose is None:
            step.model_copy(update={"steps": round(total / pieces)}).apply(run)
        else:
            sliced(run, step, step.choose, total)


def shares(graph: Graph, step: Reconstruct) -> int:
    """Return how many times its ``steps`` a reconstruction takes in total."""
    pieces = plan(graph, step.schedule, step.order)
    return len({piece.level for piece in pieces}) * len(graph.spans("block")) if step.equal_total_steps else len(pieces)


def sliced(run: Run, step: Reconstruct, options: Choose, total: int) -> None:
    """Choose a slicing and reconstruct its segments with the steps that the trials have left."""
    found = step.choice(run)
    tried = candidates(run.teacher, found.profile, options.among, options.outlier_quantiles, options.longest)
    blocks = len(run.student.spans("block"))
    left = total - sum(options.steps * (blocks if step.equal_total_steps else len(slicing.pieces)) for slicing in tried)
    if left < len(found.best.pieces):
        raise ValueError(f"the trials take all but {left} of {total} steps; raise --steps or lower choose.steps")
    pieces = found.best.pieces
    print(f"{found.best.name} of {found.scores}, {left} of {total} steps left", flush=True)
    each = round(left / (blocks if step.equal_total_steps else len(pieces)))
    sweep(run, step.model_copy(update={"steps": each}), pieces)


@torch.no_grad()
def ends(graph: Graph, x_NCHW: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the final feature and the logits of a model."""
    first, feature, last = graph.cuts[0], graph.feature, graph.cuts[-1]
    middle = forward_all(graph.segment(first, feature), x_NCHW, device)
    return middle, forward_all(graph.segment(feature, last), middle, device)


def judge(run: Run, x_NCHW: torch.Tensor, like: tuple[torch.Tensor, torch.Tensor] | None = None) -> dict[str, float]:
    """Return KL to floating point, whose ``ends`` are ``like``, and the relative squared error of the final feature."""
    feature_NC, logits_NK = ends(run.student, x_NCHW, run.device)
    like_NC, like_NK = like or ends(run.teacher, x_NCHW, run.device)
    kl, agreement = divergence(logits_NK, like_NK), (logits_NK.argmax(-1) == like_NK.argmax(-1)).float().mean()
    error = relative_square(feature_NC, like_NC)
    return {"kl": float(kl), "agreement": 100 * float(agreement), "feature_error": float(error)}


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; ``--jobs`` processes, each with cells of one model."""
    chosen.until = time.time() + chosen.minutes * 60
    known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for seed in chosen.seeds:
        for bits in chosen.bits:
            for model in chosen.models:
                for place, variant in enumerate(chosen.variants):
                    values = (variant, model, bits, seed, chosen.steps, chosen.train)
                    if values not in known:
                        groups[model, bits, seed, place % chosen.split].append(dict(zip(KEYS, values, strict=True)))
    for model in {group[0] for group in groups}:
        images(model, chosen)  # decoded once, before processes would do it side by side
    failed = 0
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, cells, chosen) for cells in groups.values()]):
            if (error := future.exception()) is not None:
                traceback.print_exception(error)
            failed += 1 if error is not None else future.result()
    raise SystemExit(1 if failed else 0)


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
    known = list(yaml.safe_load((HERE / "variants.yaml").read_text()))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=known, choices=known, metavar="NAME")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w3a3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=400, help="steps of a block")
    parser.add_argument("--train", type=int, default=1000 - HELD_OUT, help="calibration images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--split", type=int, default=1, help="processes for one model, bits and seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no cell after so many")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/vitq-matrix"), help="where decoded images are kept")


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views, figure)

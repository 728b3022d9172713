"""What the scripts share that fill tables of a recipe's variants, cell by cell: models, processes, rows, printing."""

import argparse
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from command import Row, append, rows
from grid import grid, model_name
from judging import HELD_OUT, MODELS, images, judge

from vitq.activations import CPU_CHUNK
from vitq.bits import Bits
from vitq.devices import choose_device
from vitq.evaluation import measure
from vitq.graph import Graph
from vitq.quantizers import use_compiled_kernels
from vitq.run.events import Events
from vitq.run.inputs import capture_checked
from vitq.run.run import Run
from vitq.suites.held_out import ends

KEYS = ("table", "variant", "model", "bits", "seed")
IN_ORDER = 0
"""The seed by whose order the images lie in memory."""


class Bench:
    """One model with its images, captured once for all cells of a process."""

    def __init__(self, model: str, chosen: argparse.Namespace) -> None:
        torch.set_num_threads(chosen.threads)
        self.chosen, self.model, self.device = chosen, model, choose_device(chosen.device)
        self.source, x_NCHW, self.x_val, self.labels = images(model, chosen)
        self.x_calibration, self.x_held_out = x_NCHW.tensor_split([-HELD_OUT])
        self.teacher = capture_checked(self.source, x_NCHW, self.device)
        self.like = ends(self.teacher, self.x_held_out, self.device)

    def start(self, bits: Bits, seed: int, events: Events) -> Run:
        """Return a run of all calibration images that are not held out, which another seed puts in another order."""
        x_NCHW = self.x_calibration
        if seed != IN_ORDER:  # a recipe that takes some of them takes the first ones
            x_NCHW = x_NCHW[torch.randperm(len(x_NCHW), generator=torch.Generator().manual_seed(seed))]
        return Run(self.teacher, self.teacher.clone(), x_NCHW, bits, seed, self.device, events)

    def judge(self, run: Run) -> Row:
        """Return what the held-out images say."""
        with use_compiled_kernels():
            return judge(run, self.x_held_out, self.like)

    def top1(self, graph: Graph, limit: int | None = None) -> Row:
        """Return what a model scores on the validation images, the first ones where there is a ``limit``."""
        x_val, labels = self.x_val[:limit], self.labels[:limit]
        batches = zip(x_val.split(CPU_CHUNK), labels.split(CPU_CHUNK), strict=True)
        with use_compiled_kernels():
            return {"top1": measure(graph, batches, self.device)[0].top1, "images": len(x_val)}

    def one(self, cell: Row) -> Row:
        """Measure one cell and return what its row says beside it."""
        raise NotImplementedError


Kind = Callable[[str, argparse.Namespace], Bench]
"""A subclass of ``Bench``."""


@dataclass(frozen=True)
class Axes:
    """What the cells of a table differ in, beside the model; a table of a script may hold more."""

    bits: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: Mapping[str, Any]


def work(kind: Kind, cells: Sequence[Row], chosen: argparse.Namespace) -> int:
    """Measure cells of one model, one after another, while there is time; return how many failed."""
    bench, failed = kind(cells[0]["model"], chosen), 0
    for cell in cells:
        if time.time() > getattr(chosen, "until", float("inf")):
            break
        try:
            row = {**cell, **bench.one(cell)}
        except Exception:
            failed += 1
            print(f"{cell} failed: {traceback.format_exc()}", flush=True)
            continue
        append(chosen.results, row)
        print(row, flush=True)
    return failed


def pool(models: Iterable[str], chosen: argparse.Namespace) -> ProcessPoolExecutor:
    """Return ``--jobs`` processes, after the images of ``models`` are decoded, which they would do side by side."""
    for model in models:
        images(model, chosen)
    return ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn"))


def measured(
    processes: ProcessPoolExecutor, kind: Kind, groups: Iterable[Sequence[Row]], chosen: argparse.Namespace
) -> int:
    """Measure groups of cells, each group by one process; return how many cells failed."""
    waiting = [processes.submit(work, kind, cells, chosen) for cells in groups]
    return sum(done.result() for done in as_completed(waiting))


def run_tables(kind: Kind, tables: Mapping[str, Axes], chosen: argparse.Namespace) -> None:
    """Measure every cell that is asked for and not in the results yet; exit code 1 where one fails."""
    if unknown := set(chosen.variants).difference(*(tables[name].variants for name in chosen.tables)):
        raise SystemExit(f"no row of {', '.join(chosen.tables)} is called {', '.join(sorted(unknown))}")
    known = {tuple(row[key] for key in KEYS) for row in rows(chosen.results)}
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for name, model in product(chosen.tables, chosen.models):
        axes = tables[name]
        for number, (bits, variant, seed) in enumerate(product(axes.bits, axes.variants, chosen.seeds or axes.seeds)):
            values = (name, variant, model, bits, seed)
            asked = (not chosen.variants or variant in chosen.variants) and (not chosen.bits or bits in chosen.bits)
            if asked and values not in known:
                groups[model, number % chosen.split].append(dict(zip(KEYS, values, strict=True)))
    with pool({model for model, _ in groups}, chosen) as processes:
        failed = measured(processes, kind, groups.values(), chosen)
    raise SystemExit(1 if failed else 0)


def print_tables(tables: Mapping[str, Axes], results: Path, show: Callable[[str], str] = str) -> None:
    """Print the results as Markdown: top-1, held-out KL, their deviation over seeds, and the most processor seconds."""
    found = rows(results)
    for name, axes in tables.items():
        own = [row for row in found if row["table"] == name]
        known = {(row["model"], row["bits"]) for row in own}
        columns = [column for column in product(MODELS, axes.bits) if column in known]
        lines = []
        for variant in axes.variants:
            if mine := [row for row in own if row["variant"] == variant]:
                cells = [[r for r in mine if (r["model"], r["bits"]) == column] for column in columns]
                longest = max(row["seconds"] for row in mine)
                lines.append((show(variant), *map(_cell, cells), f"{longest:.0f}"))
        if columns:
            heads = [f"{model_name(model)} {bits.upper()}" for model, bits in columns]
            print(f"\n{grid((name, *heads, 'CPU seconds'), lines)}")


def _cell(group: Sequence[Row]) -> str:
    if not group:
        return "–"
    found = []
    for key, digits in (("top1", 1), ("kl", 3)):
        values = torch.tensor([row[key] for row in group if key in row])
        spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
        found += [f"{values.mean():.{digits}f}{spread}"] if len(values) else []
    return " / ".join(found)


def add_options(parser: argparse.ArgumentParser, tables: Mapping[str, Axes], usual: Sequence[str]) -> None:
    """Add what ``run`` takes; ``usual`` are the tables that it measures by default."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", nargs="+", default=list(usual), choices=list(tables), metavar="NAME")
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="rows; all by default")
    parser.add_argument("--bits", nargs="+", default=[], help="of each table; all by default")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="those of each table by default")
    add_processes(parser, "processes for one model")


def add_processes(parser: argparse.ArgumentParser, split: str) -> None:
    """Add where and by how many processes cells are measured."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--split", type=int, default=1, help=split)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/vitq-images"), help="where decoded images are kept")

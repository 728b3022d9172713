"""What the benchmark scripts share: vitq's command line, their own, and what every row says about its making."""

import argparse
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chart import Chart, keep

from vitq.suites.suite import FLOATING

Row = dict[str, Any]
PACKAGES = ("vitq", "torch", "timm", "onnxruntime", "openvino", "nncf")
"""Packages whose versions a row holds, where they are installed."""


def vitq(*arguments: str) -> dict[str, Any]:
    """Run the command line in a fresh process and return what it printed as JSON."""
    command = [sys.executable, "-m", "vitq.cli", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def rows(path: Path) -> list[Row]:
    """Return what a results file holds so far, one JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def making() -> Row:
    """Return what a row says about its making: day, machine and versions."""
    from vitq.cli.doctor.machine import processor

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"date": time.strftime("%Y-%m-%d"), "machine": processor().value, "versions": versions}


def append(path: Path, row: Row) -> None:
    """Write a row with its ``making`` to a results file; several threads and processes may."""
    row = {**making(), **row}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


def add_suite(parser: argparse.ArgumentParser) -> None:
    """Add what a script takes that measures by a suite."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("runs/store"), help="where runs and results are kept")
    parser.add_argument("--only", metavar="GLOB", help="cells, as vitq compare takes them; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")


def append_cells(suite: Path, chosen: argparse.Namespace, row_of: Callable[[Row], Row], keys: Sequence[str]) -> None:
    """Measure what is ``chosen`` of a suite, and append a row for each quantized cell that the results do not have yet.

    ``keys`` tell rows apart.
    """
    only = [] if chosen.only is None else ["--only", chosen.only]
    where = ("--data", str(chosen.data), "--store", str(chosen.store), "--device", chosen.device)
    found = vitq("compare", str(suite), *where, "--jobs", str(chosen.jobs), *only)
    known = {tuple(row[key] for key in keys) for row in rows(chosen.results)}
    for row in [row_of(cell) for cell in found["cells"] if cell["recipe"] != FLOATING]:
        if tuple(row[key] for key in keys) not in known:
            append(chosen.results, row)
            print(row, flush=True)


Verb = Callable[[argparse.Namespace], None]
Options = Callable[[argparse.ArgumentParser], None]


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run_or_table(
    about: str | None,
    options: Options,
    run: Verb,
    table: Verb,
    results: Path | None = None,
    views: Options = no_options,
    figure: Callable[[argparse.Namespace], Chart] | None = None,
) -> None:
    """Read a command line and call its verb: ``run``, which takes ``options``, ``table`` or ``figure``.

    Where ``results`` is given, each takes ``--results``, which is that file by default. ``views`` adds what ``table``
    and ``figure`` take. ``figure`` draws its chart, unless the file of that name was drawn from the same numbers, and
    prints the line of Markdown that shows it.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runner, printer = verbs.add_parser("run", help="measure"), verbs.add_parser("table", help="print the tables")
    calls: list[tuple[argparse.ArgumentParser, Verb, Options]] = [(runner, run, options), (printer, table, views)]
    if figure is not None:
        drawer = verbs.add_parser("figure", help="draw the figure")
        drawer.add_argument("--check", action="store_true", help="draw nothing: end with 1 where the file is old")
        calls.append((drawer, lambda chosen: print(keep(figure(chosen), draw_anew=not chosen.check)), views))
    for verb, call, its_options in calls:
        its_options(verb)
        verb.set_defaults(call=call)
        if results is not None:
            verb.add_argument("--results", type=Path, default=results, metavar="FILE")
    chosen = parser.parse_args()
    chosen.call(chosen)

"""What the benchmark scripts share: vitq's command line, and their own."""

import argparse
import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

Row = dict[str, Any]


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


def append(path: Path, row: Row) -> None:
    """Write a row to a results file; several threads and processes may."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


def each(cells: Sequence[Row], work: Callable[[Row], object], jobs: int) -> None:
    """Do ``work`` for every cell, ``jobs`` at a time: a failure is printed, the others go on, the exit code is 1."""
    failed = 0
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(work, cell): cell for cell in cells}
        for future in as_completed(waiting):
            if (error := future.exception()) is not None:
                failed += 1
                print(f"{waiting[future]} failed: {error}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(f"{failed} of {len(cells)} cells failed")


Verb = Callable[[argparse.Namespace], None]


def run_or_table(
    about: str | None,
    options: Callable[[argparse.ArgumentParser], None],
    run: Verb,
    table: Verb,
    results: Path | None = None,
) -> None:
    """Read a command line of two verbs and call one: ``run``, which takes ``options``, or ``table``.

    Where ``results`` is given, both take ``--results``, which is that file by default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runner, printer = verbs.add_parser("run", help="measure"), verbs.add_parser("table", help="print the tables")
    options(runner)
    for verb, call in ((runner, run), (printer, table)):
        verb.set_defaults(call=call)
        if results is not None:
            verb.add_argument("--results", type=Path, default=results, metavar="FILE")
    chosen = parser.parse_args()
    chosen.call(chosen)

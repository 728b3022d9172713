"""``vitq.compare``: from a suite file to its leaderboard."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from vitq.artifact.files import exists
from vitq.errors import ArgumentError, CompareError, SuiteError, did_you_mean
from vitq.run.events import Events
from vitq.suites.board import Board, board_of
from vitq.suites.cells import Cell, cells_of
from vitq.suites.golden import Drift, drifted, drifts, golden_path, read_golden, renew
from vitq.suites.leaderboard import write_leaderboard
from vitq.suites.runner import Found, job_of, known_rows, run_cells
from vitq.suites.store import Store
from vitq.suites.suite import Suite, load_suite
from vitq.suites.workers import Here, Processes, Workers

TOLD = 5
"""Failures that an error names."""


@dataclass(frozen=True)
class Comparison:
    """A suite's results: the ``board``, its files, failures by cell, and drifts from golden scores."""

    board: Board
    files: tuple[Path, ...]
    measured: int
    """Cells that were measured now; the others were known."""
    failed: Mapping[str, str]
    golden: tuple[Drift, ...]

    def require_all(self) -> None:
        """Raise CompareError where cells have failed."""
        if self.failed:
            told = "; ".join(f"{name}: {why}" for name, why in list(self.failed.items())[:TOLD])
            raise CompareError(
                f"{len(self.failed)} cells failed ({told}); the others are kept: mend the cause and compare again"
            )

    def require_golden(self) -> None:
        """Raise CompareError where a golden cell is too far from its score or not measured, or where there is none."""
        if not self.golden:
            raise CompareError(
                f"none of these cells of suite '{self.board.suite.name}' has a golden score, so that none was checked; "
                "write them with --renew-golden"
            )
        if far := drifted(self.golden):
            told = "; ".join(map(str, far[:TOLD]))
            raise CompareError(
                f"{len(far)} of {len(self.golden)} golden scores are not met ({told}); where the change is meant, "
                "renew them with --renew-golden"
            )


def compare_suite(
    path: Path,
    *,
    data: Path | None,
    store: Path,
    out: Path | None,
    only: str | None,
    jobs: int,
    ray: str | None,
    threads: int | None,
    device: str,
    retries: int,
    measure: bool,
    overwrite: bool,
    renew_golden: bool,
    events: Events,
) -> Comparison:
    """Measure what the store lacks of a suite, and write its leaderboard; arguments as of ``vitq.compare``."""
    if overwrite and not measure:
        raise ArgumentError("overwrite (--overwrite) measures anew and --known measures nothing; leave one out")
    suite, kept = load_suite(path), Store(store)
    wanted = chosen(suite, cells_of(suite, path.parent, data), only)
    folder = out or store.parent / f"compare-{suite.name}"
    golden_file = golden_path(suite, path.parent) if renew_golden or suite.golden is not None else None
    if golden_file is not None and exists(golden_file):
        read_golden(golden_file)  # what is wrong with it is told before hours of work
    job = partial(job_of, store=kept, device=device, threads=threads, anew=overwrite)
    if measure:
        crew = workers_for(jobs, ray, threads, device)
        found = run_cells(wanted, kept, crew, job, retries=retries, anew=overwrite, events=events)
    else:
        found = Found(known_rows(wanted, kept))
    board = board_of(suite, wanted, found.rows)
    golden: tuple[Drift, ...] = ()
    if golden_file is not None and renew_golden:
        renew(board, golden_file)
    if golden_file is not None and exists(golden_file):
        asked = {cell.place_key for cell in wanted}
        known = drifts(board, read_golden(golden_file))
        golden = tuple(drift for drift in known if drift.golden.place in asked)
    failed = {cell.name: found.failed[cell.key] for cell in wanted if cell.key in found.failed}
    return Comparison(board, write_leaderboard(folder, board, golden), found.measured, failed, golden)


def chosen(suite: Suite, cells: tuple[Cell, ...], only: str | None) -> tuple[Cell, ...]:
    """Return the cells whose name matches a glob or holds its words; SuiteError where none does."""
    if only is None:
        return cells
    pattern = only if any(sign in only for sign in "*?[") else f"*{only}*"
    found = tuple(cell for cell in cells if fnmatchcase(cell.name, pattern))
    if not found:
        known = did_you_mean(only, [cell.name for cell in cells][:20])
        raise SuiteError(f"no cell of suite '{suite.name}' matches '{only}'{known}")
    return found


def workers_for(jobs: int, ray: str | None, threads: int | None, device: str) -> Callable[[], Workers]:
    """Return what makes the workers: of a Ray cluster, or so many processes, this one where it is one."""
    if ray is not None:
        from vitq.suites.ray_workers import Ray

        return partial(Ray, ray, jobs if jobs > 1 else None, threads, device)
    return Here if jobs == 1 else partial(Processes, jobs)


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data."""
    board = comparison.board
    return {
        "suite": board.suite.name,
        "files": [str(path) for path in comparison.files],
        "cells": [{**cell.place, "key": cell.key, **_short(row)} for cell, row in board.cells],
        "missing": [cell.name for cell in board.missing],
        "measured": comparison.measured,
        "failed": dict(comparison.failed),
        "claims": [{**vars(test), "verdict": test.verdict} for test in board.tested],
        "golden": [
            {**drift.golden.model_dump(), "now": drift.now, "within": drift.within} for drift in comparison.golden
        ],
    }


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "correct"}

"""Cells through workers: what is done is skipped, a worker that dies is replaced, all are seen in one view."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from vitq.report.units import duration, label, score
from vitq.run.events import Events
from vitq.run.task import ProgressTask
from vitq.suites.cells import Cell
from vitq.suites.jobs import Job, Outcome
from vitq.suites.store import RUN, Store
from vitq.suites.workers import Workers

GLANCE = 1.0
"""Seconds between two looks at what is at work."""
LAST = 4096
"""Bytes of a run's log in which its last line is."""


@dataclass
class Found:
    """What a comparison has: results by key, and what is told of the cells that failed."""

    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    measured: int = 0
    """Cells that were measured now; the others were in the store."""


def known_rows(cells: Iterable[Cell], store: Store) -> dict[str, Mapping[str, Any]]:
    """Return the results that the store has."""
    found = {key: store.result(key) for key in dict.fromkeys(cell.key for cell in cells)}
    return {key: row for key, row in found.items() if row is not None}


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    workers: Callable[[], Workers],
    job: Callable[[Cell], Job],
    *,
    retries: int,
    anew: bool,
    events: Events,
) -> Found:
    """Measure the cells that the store lacks, all of them with ``anew``, and return the results of all.

    ``workers`` are called for where there is work. Those that die get their cell again, ``retries`` times at most.
    """
    found = Found({} if anew else known_rows(cells, store))
    first = {cell.key: cell for cell in reversed(cells)}  # equal contents under several names are one cell
    waiting = deque(dict.fromkeys(cell.key for cell in cells if cell.key not in found.rows))
    if not waiting:
        return found
    deaths: Counter[str] = Counter()
    bars: dict[str, ProgressTask] = {}
    with workers() as crew, events.task("compare", len(first)) as total:
        total.advance(len(found.rows))
        while waiting or bars:
            while waiting and len(bars) < crew.slots:
                key = waiting.popleft()
                bars[key] = events.beside(first[key].name)
                crew.start(job(first[key]))
            for outcome in crew.wait(GLANCE):
                key = outcome.job.key
                again = outcome.died and deaths[key] < retries
                bars.pop(key).end("retried" if again else "done" if outcome.row is not None else "failed")
                if again:
                    deaths[key] += 1
                    waiting.append(key)
                    events.warn("worker-died", f"{outcome.job.name}: {outcome.error}; it is measured again")
                    continue
                _take(outcome, found, store)
                total.advance()
                events.show(escape(_line(outcome, total)))
            for key, bar in bars.items():
                if stage := last_stage(store.folder(key) / RUN / "events.jsonl"):
                    bar.advance(0, at=stage)
    return found


def _take(outcome: Outcome, found: Found, store: Store) -> None:
    key = outcome.job.key
    if outcome.row is None:
        found.failed[key] = outcome.error
        return
    found.rows[key] = outcome.row
    found.measured += 1
    if store.result(key) != outcome.row:  # measured on a machine that has another disk
        store.write(key, outcome.row)


def _line(outcome: Outcome, total: ProgressTask) -> str:
    place = f"{total.done} of {total.total}: {outcome.job.name}"
    if outcome.row is None:
        return f"{place}: failed, {outcome.error}"
    metric = str(outcome.row.get("metric") or "score")
    said = f"{label(metric)} {score(metric, outcome.row.get('score'))}"
    return f"{place}: {said}, {duration(outcome.row.get('seconds'))}"


def last_stage(log: Path) -> str:
    """Return what a run said last that it was at, in a few words; nothing where it has no log here."""
    with suppress(OSError, ValueError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST))
        for line in reversed(file.read().splitlines()):
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("kind") in ("task", "progress") and event.get("task"):
                    done = f" {event['done']}/{event['total']}" if event.get("done") and event.get("total") else ""
                    return f"{event['task']}{done}"
    return ""


def job_of(cell: Cell, store: Store, device: str, threads: int | None, anew: bool) -> Job:
    """Return what a worker is given to measure a cell."""
    plain = json.loads(json.dumps(cell.call))
    return replace(Job(cell.key, cell.name, plain, str(store.root)), device=device, threads=threads, overwrite=anew)

"""Cells reach workers once, a worker that dies is replaced, and all is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vitq.errors import DataError, SuiteError
from vitq.run.events import Events
from vitq.suites.cells import Cell
from vitq.suites.jobs import Job, Outcome
from vitq.suites.runner import Found, job_of, known_rows, last_stage, run_cells
from vitq.suites.store import Store
from vitq.suites.workers import Here, Workers

Make = Callable[..., tuple[Cell, ...]]


class Scripted(Workers):
    """Workers that do what a function says, two at a time."""

    slots = 2

    def __init__(self, ending: Callable[[Job, int], Outcome]) -> None:
        self.ending, self.started, self.at_work = ending, [], []

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self.at_work.append(job)
        assert len(self.at_work) <= self.slots

    def wait(self, seconds: float) -> list[Outcome]:
        job = self.at_work.pop(0)
        return [self.ending(job, self.started.count(job.name))]


def run(
    cells: tuple[Cell, ...], store: Store, crew: Workers, retries: int = 2, anew: bool = False
) -> tuple[Found, Events]:
    job = partial(job_of, store=store, device="cpu", threads=None, anew=anew)
    with Events(None, console=False) as events:
        return run_cells(cells, store, lambda: crew, job, retries=retries, anew=anew, events=events), events


def test_what_is_done_is_skipped_and_equal_cells_are_measured_once(
    cells: Make, tmp_path: Path, row: Callable[..., dict[str, Any]]
) -> None:
    wanted, store = cells(budgets=["quick", "full"], seeds=[0, 1]), Store(tmp_path / "store")
    store.write(wanted[0].key, row(90.0))
    crew = Scripted(lambda job, _: Outcome(job, row(50.0)))
    found, _ = run(wanted, store, crew)
    assert len(wanted) == 5 and crew.started == [wanted[1].name, wanted[3].name] and found.measured == 2
    assert found.rows == known_rows(wanted, store) and found.rows[wanted[0].key]["score"] == 90.0

    def unwanted() -> Workers:
        raise AssertionError("there is nothing to measure")

    with Events(None, console=False) as events:
        again = run_cells(wanted, store, unwanted, lambda _: None, retries=0, anew=False, events=events)  # type: ignore[arg-type, return-value]
    assert again.rows == found.rows and again.measured == 0
    assert run(wanted, store, Scripted(lambda job, _: Outcome(job, row(60.0))), anew=True)[0].measured == 3
    assert {one["score"] for one in known_rows(wanted, store).values()} == {60.0}


def test_a_worker_that_dies_is_replaced_and_told_and_given_up_at_last(
    cells: Make, tmp_path: Path, row: Callable[..., dict[str, Any]]
) -> None:
    wanted, store = cells(), Store(tmp_path)

    def dies_once(job: Job, times: int) -> Outcome:
        return Outcome(job, error="signal 9", died=True) if times == 1 else Outcome(job, row(1.0))

    found, events = run(wanted, store, Scripted(dies_once))
    assert not found.failed and len(found.rows) == 2
    assert [warned.name for warned in events.warnings] == ["worker-died"] * 2
    crew = Scripted(lambda job, _: Outcome(job, error="signal 9", died=True))
    lost, _ = run(wanted, Store(tmp_path / "other"), crew, retries=1)
    assert lost.failed == {cell.key: "signal 9" for cell in wanted} and len(crew.started) == 4


def test_a_failure_is_told_once_and_the_others_go_on(
    cells: Make, tmp_path: Path, row: Callable[..., dict[str, Any]]
) -> None:
    wanted = cells()

    def work(job: Job) -> dict[str, Any]:
        if job.call["recipe"] is None:
            raise DataError("no labels")
        return row(5.0)

    found, _ = run(wanted, Store(tmp_path), Here(work))
    assert found.failed == {wanted[0].key: "DataError: no labels"} and set(found.rows) == {wanted[1].key}


def test_a_damaged_result_is_told_and_one_of_another_cell_too(
    tmp_path: Path, row: Callable[..., dict[str, Any]]
) -> None:
    store = Store(tmp_path)
    store.write("ab" * 32, row(1.0))
    path = store.folder("ab" * 32) / "result.json"
    assert store.result("cd" * 32) is None and store.result("ab" * 32) == row(1.0)
    other = store.folder("cd" * 32)
    other.mkdir(parents=True)
    (other / "result.json").write_bytes(path.read_bytes())
    path.write_text(path.read_text().replace("1.0", "2.0"))
    for key in ("ab" * 32, "cd" * 32):
        with pytest.raises(SuiteError, match="damaged or of another cell; delete it"):
            store.result(key)


def test_what_a_run_is_at_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    assert last_stage(log) == ""
    lines = [{"kind": "task", "task": "a"}, {"kind": "progress", "task": "train", "done": 3, "total": 9}, {"kind": "x"}]
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "ta')
    assert last_stage(log) == "train 3/9"


def test_a_job_is_plain_data(cells: Make, tmp_path: Path) -> None:
    job = job_of(cells()[1], Store(tmp_path), "cpu", 1, False)
    assert json.loads(json.dumps(job.call)) == job.call and job == replace(job)

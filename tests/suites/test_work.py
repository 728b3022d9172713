"""A suite is measured by real workers, in this process, in others, and on Ray; what they measure is the same."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import vitq
from vitq.errors import CompareError, SuiteError
from vitq.models import load_model
from vitq.suites.board import board_of
from vitq.suites.cells import Cell
from vitq.suites.held_out import apart, judge
from vitq.suites.jobs import Job, Outcome, answer
from vitq.suites.leaderboard import tables
from vitq.suites.runner import job_of
from vitq.suites.store import RUN, Store
from vitq.suites.suite import parse_suite
from vitq.suites.work import measure_cell, unpacked
from vitq.suites.workers import Processes, Workers


@pytest.fixture(scope="module")
def measured(data: Path, written: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite and the store of its results."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "small.yaml").write_text(written(golden="golden.yaml"))
    found = vitq.compare(folder / "small.yaml", data=data, store=folder / "store", progress=False)
    assert found.measured == 2 and not found.failed
    return folder


def test_a_comparison_measures_once_and_keeps_run_and_result(measured: Path, data: Path, vitq_cli: Any) -> None:
    again = vitq.compare(measured / "small.yaml", data=data, store=measured / "store", progress=False)
    assert again.measured == 0 and not again.board.missing
    (floating, own), (quantized, row) = again.board.cells
    assert floating.recipe == "floating point" and quantized.recipe == "rtn"
    assert row["size_bytes"] < own["size_bytes"] and row["images"] == own["images"] == 12
    run = Store(measured / "store").folder(quantized.key) / RUN
    model = vitq.load(run)
    scored = model.evaluate(data / "validation")
    assert (row["score"], row["scores"]["top5"]) == (scored.top1, scored.top5)
    assert unpacked(row).mean() * 100 == pytest.approx(scored.top1)
    result = vitq_cli(
        "compare", str(measured / "small.yaml"), "--data", str(data), "--store", str(measured / "store"), "--json", "-q"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["measured"] == 0 and [cell["recipe"] for cell in found["cells"]] == ["floating point", "rtn"]


def test_held_out_images_go_to_no_recipe_and_judge_all(
    data: Path, cells: Callable[..., tuple[Cell, ...]], written: Callable[..., str], tmp_path: Path
) -> None:
    lines = {"held_out": 5, "limit": 12, "recipes": {"rtn": None, "few": {"recipe": "rtn", "limit": 3}}}
    whole, few = (cell for cell in cells(**lines) if cell.recipe != "floating point")
    assert whole.key not in {cell.key for cell in cells(**{**lines, "held_out": 4})} and whole.key != few.key
    left, others = apart(**whole.call["held_out"])
    names = [{item.name for item in part.items} for part in (left, others)]
    assert not names[0] & names[1] and [len(part) for part in names] == [7, 5]
    store = Store(tmp_path / "store")
    for cell, images in ((whole, 7), (few, 3)):
        row = measure_cell(job_of(cell, store, "cpu", None, False))
        assert vitq.load(store.folder(cell.key) / RUN).config.calibration["images"] == images
        assert (
            row["held_out"]["images"] == 5 and row["held_out"]["distance"] > 0 and row["held_out"]["feature_error"] > 0
        )
    own = load_model(str(data / "tiny"))
    finer = vitq.quantize(own, data / "calibration", recipe="rtn", bits="w8a8", limit=7, progress=False)
    assert judge(finer, own, others)["distance"] < row["held_out"]["distance"] / 10
    board = board_of(parse_suite(written(**lines), "s"), [few], {few.key: row})
    (table,) = (table for table in tables(board) if table.title == "On held-out images")
    assert table.rows[0][4:] == tuple(f"{row['held_out'][key]:.4f}" for key in ("distance", "feature_error"))


def test_golden_scores_are_checked_and_renewed_from_the_command_line(
    measured: Path, data: Path, vitq_cli: Any, tmp_path: Path
) -> None:
    shutil.copy(measured / "small.yaml", tmp_path)
    arguments = ("compare", str(tmp_path / "small.yaml"), "--data", str(data), "--store", str(measured / "store"), "-q")
    out = ("--out", str(tmp_path / "out"))
    unchecked = vitq_cli(*arguments, *out, "--check")
    assert unchecked.exit_code == 3 and "none was checked" in unchecked.stderr
    assert vitq_cli(*arguments, *out, "--renew-golden").exit_code == 0
    assert vitq_cli(*arguments, *out, "--check").exit_code == 0
    golden = tmp_path / "golden.yaml"
    golden.write_text(golden.read_text().replace("tolerance: 1.0", "tolerance: 0.0").replace("score: ", "score: 1"))
    missed = vitq_cli(*arguments, *out, "--check")
    assert missed.exit_code == 3 and "golden scores are not met" in missed.stderr
    assert vitq_cli(*arguments, *out, "--known", "--only", "rtn").exit_code == 0
    assert vitq_cli(*arguments, *out, "--only", "nothing").exit_code == 2
    collide = vitq_cli(*arguments, *out, "--known", "--overwrite")
    assert collide.exit_code == 2 and "leave one out" in collide.stderr


def test_a_run_that_was_stopped_before_its_result_goes_on(
    measured: Path, data: Path, cells: Callable[..., tuple[Cell, ...]], tmp_path: Path
) -> None:
    (_, cell), store = cells(), Store(tmp_path / "store")
    shutil.copytree(measured / "store", store.root)
    known = store.result(cell.key)
    assert known is not None
    (store.folder(cell.key) / "result.json").unlink()
    again = measure_cell(job_of(cell, store, "cpu", None, False))
    times = ("seconds", "peak_memory_bytes", "date", "threads")
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in known.items() if k not in times}
    assert again["seconds"] == known["seconds"]  # of the run that had ended


def test_cells_that_fail_are_named_and_end_a_command_with_3(
    data: Path, tmp_path: Path, written: Callable[..., str]
) -> None:
    (tmp_path / "own.yaml").write_text(written(models={"Tiny": {"model": "tiny", "num_classes": 9}}))
    found = vitq.compare(tmp_path / "own.yaml", data=data, store=tmp_path / "s", only="floating", progress=False)
    assert list(found.failed) == ["Tiny, floating point"] and "ModelError" in found.failed["Tiny, floating point"]
    with pytest.raises(CompareError, match="1 cells failed"):
        found.require_all()


@pytest.mark.parametrize(
    ("golden", "said"), [(None, "names no golden file"), ("bad.yaml", r"bad\.yaml: cells")], ids=["none", "damaged"]
)
def test_what_is_wrong_with_golden_scores_is_told_before_any_work(
    data: Path, tmp_path: Path, written: Callable[..., str], golden: str | None, said: str
) -> None:
    (tmp_path / "bad.yaml").write_text("suite: small\n")
    (tmp_path / "own.yaml").write_text(written(**({} if golden is None else {"golden": golden})))
    with pytest.raises(SuiteError, match=said):
        vitq.compare(tmp_path / "own.yaml", data=data, store=tmp_path / "s", renew_golden=True, progress=False)
    assert not (tmp_path / "s").exists()


STANDIN = """
import json, os, signal, sys
job = json.load(sys.stdin)
mark = os.path.join(job["store"], "died")
if job["call"]["recipe"] is None:
    print(json.dumps({"error": "DataError: no labels"})); sys.exit(3)
if not os.path.exists(mark):
    open(mark, "w").close(); print("last words", file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps({"row": {"correct": "0" * 200_000}}))
"""


def drain(crew: Workers, job: Job) -> Outcome:
    crew.start(job)
    for _ in range(5):
        if found := crew.wait(20):
            return found[0]
    raise AssertionError("it does not end")


def test_processes_tell_a_result_a_failure_and_a_death(
    cells: Callable[..., tuple[Cell, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "standin_work.py").write_text(STANDIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    floating, quantized = (job_of(cell, Store(tmp_path), "cpu", 1, False) for cell in cells())
    with Processes(2, "standin_work") as crew:
        died = drain(crew, quantized)
        assert died.died and died.error == "its process ended with signal 9: last words"
        assert drain(crew, quantized).row == {"correct": "0" * 200_000}  # more than a pipe holds
        failed = drain(crew, floating)
        assert not failed.died and failed.error == "DataError: no labels"


def test_a_job_that_came_as_text_is_answered_as_text(
    measured: Path, cells: Callable[..., tuple[Cell, ...]], tmp_path: Path
) -> None:
    (floating, _), store = cells(), Store(measured / "store")
    given = json.loads(json.dumps(asdict(job_of(floating, store, "cpu", None, False))))
    assert json.loads(json.dumps(answer(measure_cell, given))) == {"row": store.result(floating.key)}
    (tmp_path / "file").write_text("")
    assert "NotADirectoryError" in answer(measure_cell, {**given, "store": str(tmp_path / "file")})["error"]


@pytest.mark.slow
def test_a_local_ray_replaces_a_worker_that_is_killed_and_measures_nothing_twice(
    cells: Callable[..., tuple[Cell, ...]], tmp_path: Path, row: Callable[..., dict[str, Any]]
) -> None:
    pytest.importorskip("ray", reason="Ray workers need the extra vitq[ray]")
    from vitq.run.events import Events
    from vitq.suites.ray_workers import Ray
    from vitq.suites.runner import run_cells

    folder, result = tmp_path / "marks", row(5.0)
    folder.mkdir()

    def work(job: Any) -> dict[str, Any]:
        with (folder / job.key).open("a") as marks:
            marks.write("x")
        if len(list(folder.iterdir())) == 1 and (folder / job.key).read_text() == "x":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.call["recipe"] is None:
            raise ValueError("no labels")
        return result

    wanted, store = cells(seeds=[0, 1]), Store(tmp_path / "store")
    with Events(None, console=False) as events:
        found = run_cells(
            wanted,
            store,
            lambda: Ray("local", 1, 1, "cpu", work),
            lambda cell: job_of(cell, store, "cpu", 1, False),
            retries=1,
            anew=False,
            events=events,
        )
    assert [warned.name for warned in events.warnings] == ["worker-died"]
    assert {key: why.splitlines()[-1] for key, why in found.failed.items()} == {wanted[0].key: "ValueError: no labels"}
    assert set(found.rows) == {cell.key for cell in wanted[1:]} and store.result(wanted[1].key) == result
    begun = {path.name: len(path.read_text()) for path in folder.iterdir()}
    assert begun == {wanted[0].key: 2, wanted[1].key: 1, wanted[2].key: 1}


def test_ray_that_is_missing_or_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitq.suites.ray_workers import Ray

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SuiteError, match=r"pip install 'vitq\[ray\]'"):
        Ray("local", 1, 1, "cpu")

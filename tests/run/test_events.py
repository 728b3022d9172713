"""The event log: what a run leaves on disk and on the screen."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitq.run import task as task_module
from vitq.run.events import Events


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()]


def test_log_appends_one_json_line_per_event(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "events.jsonl"
    with Events(path) as events:
        events.log("segment", name="blocks.0", loss=torch.tensor(0.5), count=np.int64(3), bad=float("nan"))
        events.log("files", where=tmp_path, pair=(1, torch.tensor([2.0])), table={"a": None})
    segment, files = read(path)
    assert segment.pop("time") <= files.pop("time")
    assert segment == {"kind": "segment", "name": "blocks.0", "loss": 0.5, "count": 3, "bad": "nan"}
    assert files == {"kind": "files", "where": str(tmp_path), "pair": [1, 2.0], "table": {"a": None}}


def test_a_resumed_run_continues_its_log_after_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        events.log("first")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "hal')
    with Events(path) as events:
        events.log("second")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert [json.loads(lines[k])["kind"] for k in (0, 2)] == ["first", "second"]


def test_quiet_events_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Events() as events, events.task("calibrate", 2) as task:
        task.advance(loss=1.0)
        events.warn("dead-channel", "blocks.0 has one")
        events.show("a table")
    assert capsys.readouterr() == ("", "")
    assert events.warnings == [("dead-channel", "blocks.0 has one")]


def test_console_goes_to_stderr_and_repeated_warnings_show_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Events(tmp_path / "log", console=True) as events:
        for _ in range(3):
            events.warn("dead-channel", "channel [7] of blocks.0")
        events.warn("dead-channel", "channel [8] of blocks.0")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("[7]") == 1
    assert err.count("[8]") == 1
    assert [event["kind"] for event in read(tmp_path / "log")] == ["warning"] * 4
    assert len(events.warnings) == 2


def test_tasks_nest_and_their_end_is_logged_with_the_latest_fields(tmp_path: Path) -> None:
    with Events(tmp_path / "log") as events, events.task("reconstruct", 2) as outer:
        for name in ("a", "b"):
            with events.task(name, 5) as inner:
                for step in range(5):
                    inner.advance(loss=torch.tensor(1.0 / (step + 1)))
            outer.advance()
    done = [event for event in read(tmp_path / "log") if event["kind"] == "done"]
    assert [event["task"] for event in done] == ["a", "b", "reconstruct"]
    assert done[0]["loss"] == pytest.approx(0.2)
    assert [event["done"] for event in done] == [5, 5, 2]
    assert all(event["seconds"] >= 0 for event in done)


def test_a_task_that_raises_is_logged_as_failed_and_the_error_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), Events(tmp_path / "log") as events, events.task("t"):
        raise ValueError("broken")
    assert [event["kind"] for event in read(tmp_path / "log")] == ["task", "failed", "error"]


def test_long_tasks_send_a_heartbeat_and_short_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Events(tmp_path / "log") as events, events.task("t", 4) as task:
        task.advance()
        monkeypatch.setattr(task_module, "HEARTBEAT_SECONDS", 0.0)
        task.advance(2, loss=3)
    beats = [event for event in read(tmp_path / "log") if event["kind"] == "progress"]
    assert [(beat["done"], beat["loss"]) for beat in beats] == [(3, 3)]


class Terminal:
    """A stderr that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_one_display_serves_nested_tasks_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    events = Events(console=True)
    with events.task("outer [x]", 2):
        display = events._bars.display
        assert display is not None
        with events.task("inner", 3) as inner:
            assert events._bars.display is display
            inner.advance(loss=0.25)
            assert [task.description for task in display.tasks] == ["outer \\[x]", "  inner"]
            assert display.tasks[1].fields["latest"] == "loss=0.25"
            display.refresh()
        assert len(display.tasks) == 1
    assert getattr(events._bars, "display") is None  # noqa: B009 - mypy thinks that nothing has changed
    assert "loss=0.25" in terminal.text
    assert "outer [x]" in terminal.text


def test_a_full_disk_costs_the_log_and_not_the_run(tmp_path: Path) -> None:
    events = Events(tmp_path / "log")

    class Full:
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    events._file = Full()  # type: ignore[assignment]
    events.log("a")
    events.log("b")
    assert [warning.name for warning in events.warnings] == ["event-log"]

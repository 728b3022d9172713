"""Streams whose reader is gone: a run goes on and saves, and a result that is lost is no success."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.__main__ import main
from vitq.run.progress import wide_console

SHOW = [sys.executable, "-m", "vitq", "recipes", "list"]


class Broken(io.StringIO):
    """A stream that cannot be written to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


GONE = {
    "no reader": lambda: Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "full": lambda: Broken(OSError(errno.ENOSPC, "No space left on device")),
    "hung up": lambda: Broken(OSError(errno.EIO, "Input/output error")),
    "closed": closed,
    "none": lambda: None,
}


@pytest.mark.parametrize("gone", GONE)
def test_nothing_that_is_said_on_stderr_can_end_a_run(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    from vitq.cli.console import note
    from vitq.run.events import Events

    monkeypatch.setattr(sys, "stderr", GONE[gone]())
    with Events(console=True) as events, events.task("work", 3) as task:
        events.warn("a-name", "a message")
        task.advance()
    note("saved")


def test_a_run_whose_reader_is_gone_saves_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", GONE["no reader"]())
    monkeypatch.setattr(sys, "stdout", GONE["full"]())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 5))
    images = torch.randn(8, 3, 8, 8)
    expected = vitq.quantize(model, images, recipe="rtn", bits="w4a4", out=tmp_path / "run", progress=True)(images)
    assert torch.equal(vitq.load(tmp_path / "run")(images), expected)


@pytest.mark.parametrize(("gone", "code"), [("no reader", 0), ("full", 3), ("hung up", 3), ("closed", 0), ("none", 0)])
@pytest.mark.parametrize("verb", [("recipes", "list"), ("recipes", "list", "--json"), ("recipes", "show", "rtn")])
def test_a_result_that_cannot_be_written_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], gone: str, code: int, verb: tuple[str, ...]
) -> None:
    from vitq.cli.app import app

    monkeypatch.setattr(sys, "stdout", GONE[gone]())
    with pytest.raises(SystemExit) as ended:
        app(list(verb))
    assert ended.value.code == code
    told = capfd.readouterr().err
    assert ("cannot be written to stdout" in told) == (code == 3) and "Traceback" not in told


@pytest.mark.parametrize("to", [">/dev/full", ">&-", "2>&1 | true", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_process_ends_as_documented(to: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = " ".join(f"'{part}'" for part in SHOW)
    environment = os.environ | {"PYTHONPATH": str(Path(vitq.__file__).parents[1])}
    shell = ["bash", "-o", "pipefail", "-c", f"{command} {to}"]
    run = subprocess.run(shell, capture_output=True, text=True, env=environment)
    assert run.returncode == (3 if to == ">/dev/full" else 0), run.stderr
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr


@pytest.mark.parametrize("columns", ["1", "0", "-5", "abc", "99999999999"])
def test_a_table_shows_its_words_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    from vitq.cli.app import app

    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        app(["recipes", "list"])
    assert ended.value.code == 0
    assert "adaquant" in capsys.readouterr().out
    assert 60 <= wide_console().width <= 400


def test_a_command_that_is_stopped_while_it_is_imported_ends_as_a_stopped_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "vitq.cli.app", Slow("vitq.cli.app"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "stopped" in capsys.readouterr().err

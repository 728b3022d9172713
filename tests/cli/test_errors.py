"""How a verb ends when something goes wrong: one line, a hint, an exit code."""

import errno
import json
import sys
from typing import Any

import pytest

from vitq import errors

RUN = ("quantize", "m", "--images", "d")


@pytest.mark.parametrize(
    ("error", "exit_code", "hint"),
    [
        (errors.RecipeError("no recipe 'x'"), 2, "vitq recipes"),
        (errors.DataError("photos: no image"), 2, "labels.csv"),
        (errors.ModelError("no model"), 2, "vitq models"),
        (errors.CalibrationError("constant"), 3, "--limit"),
        (errors.GraphError("no cut"), 3, "report"),
        (errors.VitqError("other"), 3, ""),
        (errors.ArtifactError("not there"), 4, "vitq quantize --out"),
        (errors.ResumeError("changed"), 4, "--resume"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "--resume"),
        (MemoryError(), 3, "--limit"),
        (KeyboardInterrupt(), 130, "--resume"),
    ],
)
def test_errors_end_in_one_line_a_hint_and_their_code(
    vitq_cli: Any, api: Any, error: BaseException, exit_code: int, hint: str
) -> None:
    api.error = error
    result = vitq_cli(*RUN)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert str(error) in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2

    as_json = vitq_cli(*RUN, "--json")
    assert as_json.exit_code == exit_code
    told = json.loads(as_json.stdout)["error"]
    assert told["exit_code"] == exit_code
    assert hint in told["message"] + told["hint"]
    assert as_json.stderr == ""


def test_unexpected_errors_show_a_short_traceback(vitq_cli: Any, api: Any) -> None:
    api.error = ZeroDivisionError("division by zero")
    result = vitq_cli(*RUN)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert len(result.stderr.splitlines()) < 30


def test_messages_are_not_read_as_markup(vitq_cli: Any, api: Any) -> None:
    api.error = errors.DataError("folder [red]x[/red] is empty")
    assert "[red]x[/red]" in vitq_cli(*RUN).stderr


def test_a_stopped_run_says_how_to_resume(vitq_cli: Any, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vitq", "quantize", "m", "--images", "my photos", "--resume"])
    api.error = KeyboardInterrupt()
    stderr = vitq_cli(*RUN).stderr
    assert "resume with --resume" in stderr
    assert "vitq quantize m --images 'my photos' --resume" in stderr
    assert stderr.count("photos' --resume --resume") == 0


def test_a_stopped_evaluation_promises_no_resume(vitq_cli: Any, api: Any) -> None:
    api.error = KeyboardInterrupt()
    result = vitq_cli("evaluate", "x", "--images", "d")
    assert result.exit_code == 130
    assert "resume" not in result.stderr

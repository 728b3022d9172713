"""Wrong arguments end in a usage error or in vitq's own, before anything is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", "m", "--seed", "99999999999999999999"),
        ("quantize", "m", "--seed", "-1"),
        ("quantize", "m", "--out", ""),
        ("quantize", "m", "--limit", "0"),
        ("quantize", "m", "--bits", ""),
        ("quantize", "m", "--set", "reconstruct.steps=" + "[" * 3000),
        ("quantize", "m", "--weights", "nope.pth"),
        ("quantize", "m", "--crop-pct", "nan"),
        ("quantize", "  ", "--recipe", "rtn"),
        ("quantize", "m", "--resume", "--out", "x" * 5000),
        ("evaluate", "m", "--limit", "0"),
        ("evaluate", "x" * 5000),
        ("granularity", "m", "--seed", "-1"),
    ],
)
def test_the_command_line_ends_with_the_exit_code_of_bad_input(
    vitq_cli: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = vitq_cli(*arguments, "--images", str(tmp_path))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and len(result.stderr) < 1500
    assert "'m'" not in result.stderr  # no model has this name, and it was not asked for


def test_an_option_of_a_model_that_an_artifact_would_ignore_is_refused(
    vitq_cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "graph.json").touch()
    for option in (("--num-classes", "3"), ("--crop-pct", "0.3"), ("--weights", str(tmp_path / "graph.json"))):
        result = vitq_cli("evaluate", str(tmp_path), "--images", str(tmp_path), *option)
        assert result.exit_code == 2 and "has its own" in result.stderr

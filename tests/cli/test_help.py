"""Help: quick, complete, and free of heavy imports."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from vitq import cli
from vitq.cli import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "timm", "numpy", "transformers", "sklearn")
    code = f"import sys, vitq.cli; print([name for name in {heavy} if name in sys.modules])"
    source = str(Path(cli.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_verb_has_help_and_every_option_a_text(vitq_cli: Any, verb: str) -> None:
    assert vitq_cli(verb, "--help").exit_code == 0
    command = COMMANDS[verb]
    assert command.help
    for leaf in getattr(command, "commands", {verb: command}).values():
        for parameter in leaf.params:
            text = getattr(parameter, "help", None)
            assert text and text.rstrip().endswith((".", ")")), f"{verb}: {parameter.name}"


def test_help_lists_every_verb(vitq_cli: Any) -> None:
    output = vitq_cli("--help").stdout
    verbs = (
        "allocate bench compare demo diagnose doctor evaluate export granularity models quantize recipes report seal"
    )
    assert sorted(COMMANDS) == verbs.split()
    assert all(f"\n  {verb} " in output for verb in COMMANDS)


def test_version(vitq_cli: Any) -> None:
    result = vitq_cli("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("vitq ")


def test_unknown_verbs_are_bad_input(vitq_cli: Any) -> None:
    assert vitq_cli("quantise").exit_code == 2

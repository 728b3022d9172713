"""docs/troubleshooting.md names every warning and every error class of vitq."""

import re
from pathlib import Path

import pytest

import vitq.cli.errors
import vitq.errors
from vitq.cli.errors import KNOWN
from vitq.errors import VitqError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
WARNINGS = {
    *re.findall(r"\bwarn\(\s*\"([a-z]+(?:-[a-z]+)*)\"", CODE),
    *re.findall(r"^ +\"([a-z-]+)\": (?:lambda: write|clear\b)", CODE, re.MULTILINE),
}
ERRORS = sorted(
    name
    for name, kind in vars(vitq.errors).items()
    if isinstance(kind, type) and issubclass(kind, VitqError) and kind is not VitqError
)
UNNAMED = re.findall(r"\bwarnings\.warn\(f?\"([^{\"]+?)[,:({]", CODE)


def test_every_warning_has_a_row_and_no_row_is_of_none() -> None:
    rows = PAGE.partition("## Warnings")[2].partition("## Errors")[0]
    named = {name for row in re.findall(r"^\| (`[^|]*) \|", rows, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)}
    assert len(WARNINGS) > 20 and named == WARNINGS


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_has_a_row_with_its_exit_code(name: str) -> None:
    kind = getattr(vitq.errors, name)
    code = next(code for known, code, _ in KNOWN if issubclass(kind, known))
    assert f"| `{name}` | {code} |" in PAGE


def test_what_the_command_line_names_beside_classes_has_a_row_with_its_exit_code() -> None:
    source = (ROOT / "src" / "vitq" / "cli" / "errors.py").read_text(encoding="utf-8")
    made = re.findall(r"Failure\(\"(\w+)\".*?, ([A-Z_]+)\)$", source, re.MULTILINE)
    assert {name for name, _ in made} == {"DiskFull", "OutOfMemory", "Interrupted"}
    for name, code in made:
        assert f"| `{name}` | {getattr(vitq.cli.errors, code)} |" in PAGE


def test_warnings_of_python_without_a_name_are_among_the_symptoms() -> None:
    assert UNNAMED and all(f'"{words}"' in PAGE.partition("## Warnings")[0] for words in UNNAMED)

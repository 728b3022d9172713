"""A format is asked what it is: nobody outside its files asks for its name or its class."""

import re
from pathlib import Path

import pytest

import vitq
from vitq.quantizers import FORMATS

SOURCE = Path(vitq.__file__).parent
OWN = ("quantizers", "export/lowerings")
"""Where the formats and their lowerings lie."""

CLASSES = "|".join(sorted({type(codec).__name__ for codec in FORMATS.values()} | {"Logarithm", "AffineQuantizer"}))
QUESTIONS = {
    "a name compared": re.compile(r"\b(?:format|form)\.name\s*(?:==|!=|in\b)(?!\s*(?:profile\.formats|LOWERINGS))"),
    "a class asked": re.compile(rf"(?:isinstance|issubclass)\([^)]*\b(?:{CLASSES})\b"),
    "a parameter searched": re.compile(r"[\"'](?:scale|zero_point|ratio|table)[\"']\s+(?:not\s+)?in\b"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_format_is_asked_for_by_its_name_or_class(question: str) -> None:
    files = [path for path in SOURCE.rglob("*.py") if not str(path.relative_to(SOURCE)).startswith(OWN)]
    assert len(files) > 100
    found = [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if QUESTIONS[question].search(line)
    ]
    assert not found


def test_the_patterns_find_what_they_look_for() -> None:
    lines = [
        'if form.name == "affine":',
        "isinstance(quantizer, AffineQuantizer)",
        'if "zero_point" in quantizer.parameter_names:',
    ]
    assert all(pattern.search(line) for pattern, line in zip(QUESTIONS.values(), lines, strict=True))

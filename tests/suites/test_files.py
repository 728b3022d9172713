"""The suites of the repository and of the documentation are valid, and say what they are for."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from vitq.bits import Bits
from vitq.cli import app
from vitq.recipes import load_recipe
from vitq.suites.cells import Cell, _grid
from vitq.suites.compare import chosen
from vitq.suites.golden import read_golden
from vitq.suites.suite import FLOATING, Suite, load_suite, parse_suite

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "suites").glob("*.yaml"))
PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_suite_has_recipes_that_resolve_and_golden_cells_of_its_own(path: Path) -> None:
    suite = load_suite(path)
    for name, recipe in suite.recipes.items():
        for budget in recipe.budgets or suite.budgets:
            assert load_recipe(recipe.recipe or name, budget=budget, overrides=recipe.set).steps
    widths = {str(Bits.parse(bits)) for bits in suite.bits}
    assert {entry.bits for entry in suite.published} <= widths
    if suite.golden is not None:
        for cell in read_golden(path.parent / suite.golden).cells:
            assert cell.model in suite.models and cell.recipe in {*suite.recipes, FLOATING}
            assert cell.bits in widths or cell.recipe == FLOATING


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_of_a_suite_choose_cells_that_it_has(path: Path) -> None:
    suite = load_suite(path)
    cells = tuple(
        Cell(model, recipe, bits, budget, seed, {}, "") for seed, bits, budget, (recipe, _), (model, _) in _grid(suite)
    )
    lines = [line for line in (path.read_text() + PAGE).splitlines() if f"{path.parent.name}/{path.name}" in line]
    for words in map(shlex.split, (line.lstrip("# ") for line in lines)):
        if "--only" in words:
            assert chosen(suite, cells, words[words.index("--only") + 1])


def test_the_tables_have_seven_models_three_widths_and_figures_with_a_source() -> None:
    suite = load_suite(ROOT / "suites" / "tables.yaml")
    assert len(suite.models) == 7 and suite.bits == ("w3a3", "w4a4", "w6a6")
    assert all(entry.floating and 70 < entry.floating < 90 for entry in suite.models.values())
    for entry in suite.published:
        top = {name: float(suite.models[name].floating or 0) + 0.5 for name in entry.scores}
        assert len(entry.source) > 5 and all(0 < score < top[m] for m, score in entry.scores.items())


def test_the_pages_suite_is_valid_and_its_keys_and_options_are_all_there() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    suite = parse_suite(text, "docs/compare.md")
    assert suite.claims and suite.published
    for key in Suite.model_fields:
        assert re.search(rf"^{key}:|`{key}`", PAGE, re.MULTILINE), key
    command: Any = typer.main.get_command(app)
    for parameter in command.commands["compare"].params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert option == "-q" or f"`{option}" in PAGE, option


def test_the_docstrings_suite_is_valid() -> None:
    import vitq.suites.suite as module

    text = re.sub(r"^ {4}", "", str(module.__doc__).partition("::")[2], flags=re.MULTILINE)
    assert parse_suite(text.strip(), "docstring").name == "mine"

"""The benchmark pages say what the results files hold: tables, figures, and what every row has."""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLAIMS = sorted(path for path in BENCHMARKS.glob("*.md") if path.name != "README.md")
RESULTS = sorted((BENCHMARKS / "results").glob("*.jsonl"))
TELLS_APART = (
    *("model", "method", "recipe", "variant", "table", "tag", "bits", "steps", "budget", "seed", "train"),
    *("solver", "average", "cpu"),
    *("runtime", "name", "weights", "machine", "threads", "batch"),
)


@pytest.fixture
def pages(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("onnx")  # what a page prints may need the packages of export
    return benchmark("pages")


@pytest.mark.parametrize("path", [BENCHMARKS.parent / "README.md", *CLAIMS], ids=lambda path: path.stem)
def test_tables_and_figures_are_those_of_the_results(path: Path, pages: ModuleType) -> None:
    text = path.read_text(encoding="utf-8")
    assert pages.rendered(text, path.parent, check=True) == text, "run: python benchmarks/pages.py"


def test_a_page_follows_its_rows(pages: ModuleType, tmp_path: Path) -> None:
    rows = (BENCHMARKS / "results" / "integer.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text(rows[0].replace("deit_tiny", "other") + "\n")
    text = f"<!-- python benchmarks/integer.py table --results {tmp_path / 'rows.jsonl'} -->\nold\n<!-- end -->\n"
    new = pages.rendered(text, BENCHMARKS)
    assert "other_patch16_224" in new and "old" not in new
    assert pages.rendered(new, BENCHMARKS) == new


def test_an_old_figure_is_told_and_not_drawn_by_a_check(pages: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    shutil.copy(BENCHMARKS / "results" / "deploy.jsonl", results)
    command = f"benchmarks/deploy.py figure --view onnxruntime --results {results}"
    assert pages.printed(command, True).startswith("![")
    results.write_text(results.read_text().replace('"16": 479.', '"16": 979.'))
    pages.printed.cache_clear()
    with pytest.raises(SystemExit, match="deploy-onnxruntime"):
        pages.printed(command, True)


def test_a_chart_is_drawn_once_for_the_same_numbers(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chart as charts
    from chart import Chart, Series, is_drawn, keep

    monkeypatch.setattr(charts, "draw", lambda chart, path: path.write_text(f"<svg>data {chart.digest()}</svg>"))
    first = Chart("c", "title", "x", "y", (Series("a", ("p", "q"), (1.0, 2.0)),), mark=1.0)
    other = Chart("c", "title", "x", "y", (Series("a", (1.0, 2.0), (1.0, 3.0)),), "points", log_x=True)
    for chart in (first, other):
        assert not is_drawn(chart, tmp_path)
        keep(chart, tmp_path)
        assert is_drawn(chart, tmp_path)
        keep(chart, tmp_path, draw_anew=False)


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_page_is_short_asks_a_question_and_has_its_setup_command_and_limits(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80
    assert lines[0].startswith("# ") and lines[0].endswith("?") and lines[2]
    assert "| setup | |" in lines and any(line.startswith("```") for line in lines) and "## Limits" in lines


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_page_begins_with_its_answer_in_two_sentences_at_most(path: Path) -> None:
    answer = path.read_text(encoding="utf-8").split("\n\n")[1]
    assert 1 <= len(re.findall(r"[.!?](?=\s|$)", answer)) <= 2, answer


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_setup_says_on_what_hardware_versions_seeds_and_images(path: Path) -> None:
    setup = path.read_text(encoding="utf-8").partition("| setup | |\n")[2].partition("\n\n")[0]
    assert [word for word in ("hardware", "versions", "seed", "image") if word not in setup] == []


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_page_that_compares_three_rows_has_one_figure(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tables = re.findall(r"^\|(?:---\|){3,}\n((?:\|.*\n)+)", text, re.MULTILINE)
    compares = any(len(rows.splitlines()) > 2 for rows in tables)
    assert text.count("![") == (1 if compares else 0), "python benchmarks/bars.py draws a table"


def test_bars_are_the_columns_that_are_asked_for_without_rows_that_lack_a_number(
    benchmark: Callable[[str], ModuleType],
) -> None:
    module, text = (
        benchmark("bars"),
        "\n| a | b | c |\n|---|---|---|\n| x | 1.5 / 2e-3 | – |\n| y, z | .5 / 3 | 4 (5) |\n",
    )
    asked = {"rows_by": [""], "name": "n", "title": "t", "y": "u", "mark": None, "of": "o"}
    (both,) = module.bars(text, argparse.Namespace(**asked, columns=["b"], part=1)).series
    assert (both.x, both.y) == (("x", "y\nz"), (0.002, 3.0))
    found = module.bars(text, argparse.Namespace(**asked, columns=["b", "c"], part=1)).series
    assert [(one.label, one.x, one.y) for one in found] == [("b", ("y\nz",), (3.0,)), ("c", ("y\nz",), (5.0,))]
    with pytest.raises(SystemExit, match="no table of o has the columns , d"):
        module.bars(text, argparse.Namespace(**asked, columns=["d"], part=0))


def test_the_overview_has_every_page() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\S+)\]", text, re.MULTILINE)) == [path.name for path in CLAIMS]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_row_can_be_told_from_all_others_of_its_file(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [json.dumps({key: row.get(key) for key in TELLS_APART}) for row in rows]
    assert rows and len(set(keys)) == len(keys)
    assert all(isinstance(row["seed"], int) for row in rows)


def test_a_new_row_says_when_where_and_with_what_it_was_made(pages: ModuleType, tmp_path: Path) -> None:
    from command import append, rows

    append(tmp_path / "rows.jsonl", {"model": "a", "machine": "mine"})
    (row,) = rows(tmp_path / "rows.jsonl")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) and row["versions"]["torch"]
    assert (row["model"], row["machine"]) == ("a", "mine")

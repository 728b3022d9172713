"""The leaderboard shows means, deviations, tests, published figures and golden scores."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitq.errors import SuiteError
from vitq.suites.board import Board, board_of
from vitq.suites.cells import Cell, cells_of
from vitq.suites.golden import drifted, drifts, read_golden, renew
from vitq.suites.leaderboard import cells_csv, html, markdown, write_leaderboard
from vitq.suites.plots import front, pareto_plots
from vitq.suites.suite import parse_suite

LINES: dict[str, Any] = {
    "recipes": ["rtn", "repq"],
    "seeds": [0, 1, 2],
    "claims": [{"better": "repq", "than": "rtn"}],
    "published": [{"name": "Other", "source": "their table 2", "bits": "w4a4", "scores": {"Tiny": 71.25}}],
}


@pytest.fixture
def board(data: Path, tmp_path: Path, written: Callable[..., str], row: Callable[..., dict[str, Any]]) -> Board:
    suite = parse_suite(written(**LINES), "s")
    cells = cells_of(suite, tmp_path, data)
    better, other = np.arange(100) < 60, np.arange(100) < 40
    scores = {"floating point": (90.0, None), "repq": (60.0, better), "rtn": (40.0, other)}

    def made(cell: Cell) -> dict[str, Any]:
        score, right = scores[cell.recipe]
        size = 1e6 if cell.recipe != "floating point" else 8e6
        return row(score + cell.seed, right, size_bytes=size, seconds=3.0)

    return board_of(suite, cells, {cell.key: made(cell) for cell in cells[:-1]})


def test_the_table_has_means_deviations_and_published_figures(board: Board) -> None:
    text = markdown(board)
    assert "1 of 7 cells are not measured" in text and board.missing[0].name == "Tiny, repq w4a4, quick, seed 2"
    assert "| floating point |  | 90.00 |" in text
    assert "| rtn | quick | 41.00 ± 1.00 (3) |" in text and "| repq | quick | **60.50 ± 0.71 (2)** |" in text
    assert "| Other (published) | their table 2 | 71.25 |" in text


def test_claims_are_tested_over_images_and_seeds(board: Board) -> None:
    (test,) = board.tested
    assert (test.gained, test.lost, test.seeds, test.verdict) == (40, 0, 2, "holds")
    assert test.p_seeds is None and test.p == test.p_images == pytest.approx(2 * 0.5**20)
    assert "| repq > rtn | Tiny | w4a4 | quick | +20.00 | 2 | 40, 0 |" in markdown(board)


def test_the_csv_has_a_line_for_each_cell(board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(cells_csv(board))))
    assert len(lines) == 6 and lines[0]["recipe"] == "floating point" and lines[1]["top1"] == "40.0"
    assert {line["key"] for line in lines} == {cell.key for cell, _ in board.cells}


def test_the_page_needs_nothing_but_itself_and_the_front_leaves_out_what_is_beaten(
    board: Board, tmp_path: Path
) -> None:
    page = html(board)
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert "60.50 ± 0.71 (2)" in page
    assert [group.recipe for group in front(board.groups)] == ["repq", "floating point"]
    files = write_leaderboard(tmp_path / "out", board)
    assert [path.name for path in files] == ["leaderboard.md", "leaderboard.csv", "leaderboard.html"]
    write_leaderboard(tmp_path / "out", board)
    (tmp_path / "out" / "leaderboard.md").write_text("mine")
    with pytest.raises(SuiteError, match="was not written by vitq"):
        write_leaderboard(tmp_path / "out", board)


def test_a_model_has_one_plot_and_always_the_same(board: Board) -> None:
    (plot,) = pareto_plots(board)
    assert plot.startswith("<svg") and "megabytes" in plot and pareto_plots(board) == [plot]


def test_golden_scores_are_renewed_with_their_tolerances_and_missed_scores_are_told(
    board: Board, tmp_path: Path
) -> None:
    path = renew(board, tmp_path / "golden.yaml")
    golden = read_golden(path)
    assert len(golden.cells) == 6 and not drifted(drifts(board, golden))
    text = path.read_text().replace("score: 41.0", "score: 44.0").replace("tolerance: 1.0", "tolerance: 2.0")
    path.write_text(text)
    (far,) = drifted(drifts(board, read_golden(path)))
    assert str(far) == "Tiny, rtn w4a4, quick, seed 1: 41.00, golden 44.00 ± 2"
    assert "| 44.00 ± 2 | 41.00 | too far |" in markdown(board, drifts(board, read_golden(path)))
    renewed = {cell.place: cell for cell in read_golden(renew(board, path)).cells}
    assert renewed["Tiny", "rtn", "w4a4", "quick", 1].score == 41.0
    assert {cell.tolerance for cell in renewed.values()} == {2.0}
    path.write_text("suite: a\ncells: [{model: b}]\n")
    with pytest.raises(SuiteError, match=r"golden.yaml: cells.0.recipe"):
        read_golden(path)


def test_of_an_error_less_is_better(board: Board) -> None:
    turned = board_of(
        board.suite,
        [cell for cell, _ in board.cells],
        {cell.key: {**row, "metric": "mae"} for cell, row in board.cells},
    )
    (test,) = turned.tested
    assert (test.difference, test.verdict) == (20.0, "fails")
    assert "| rtn | quick | **41.00 ± 1.00 (3)** |" in markdown(turned)
    assert [group.recipe for group in front(turned.groups)] == ["rtn"]

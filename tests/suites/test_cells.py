"""Cells are addressed by what decides their result, and by nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitq.errors import SuiteError
from vitq.suites.cells import Cell, cells_of
from vitq.suites.suite import parse_suite

Make = Callable[..., tuple[Cell, ...]]


def test_floating_point_comes_first_then_seed_by_seed(cells: Make) -> None:
    found = cells(recipes={"rtn": None, "mgrq": {"seeds": [0], "bits": ["w3a3"]}}, bits=["w8a8"], seeds=[1, 0])
    assert [cell.name for cell in found] == [
        "Tiny, floating point",
        "Tiny, rtn w8a8, quick, seed 0",
        "Tiny, mgrq w3a3, quick, seed 0",
        "Tiny, rtn w8a8, quick, seed 1",
    ]


def test_everything_that_decides_a_result_is_in_its_address_and_names_are_not(cells: Make) -> None:
    (floating, plain) = cells()
    for other in (
        {"bits": ["w4a8"]},
        {"seeds": [1]},
        {"limit": 7},
        {"validation_limit": 5},
        {"recipes": {"rtn": {"set": {"insert.scope": "full"}}}},
        {"recipes": {"rtn": {"views": 2}}},
        {"models": {"Tiny": {"model": "tiny", "num_classes": 9}}},
        {"models": {"Tiny": {"model": "tiny", "preprocessing": {"crop_pct": 0.8}}}},
        {"images": "validation"},
        {"recipes": {"rtn": {"images": "noise"}}},
    ):
        assert cells(**other)[1].key != plain.key, other
    own = cells(recipes={"rtn": {"images": "validation"}})
    assert [cell.key for cell in own] == [cell.key for cell in cells(images="validation")]
    assert cells(recipes={"rtn": {"images": "synthetic"}})[1].call["images"] == "synthetic"
    assert cells(limit=7)[0].key == floating.key  # calibration images say nothing of the original
    renamed = cells(models={"Other": "tiny"}, recipes={"mine": {"recipe": "rtn"}}, name="another")
    assert [cell.key for cell in renamed] == [floating.key, plain.key]
    assert len({cell.key for cell in cells(budgets=["quick", "full"])}) == 2  # rtn has no budgets


def test_an_image_that_changes_makes_other_cells(data: Path, tmp_path: Path, written: Callable[..., str]) -> None:
    suite, own = parse_suite(written(), "s"), tmp_path / "data"
    shutil.copytree(data, own)
    before = cells_of(suite, tmp_path, own)
    assert before == cells_of(suite, tmp_path, own)
    (own / "validation" / "a" / "0.png").write_bytes(b"another")
    after = cells_of(suite, tmp_path, own)
    assert not {cell.key for cell in before} & {cell.key for cell in after}


def test_weights_of_a_model_folder_that_change_make_other_cells(
    data: Path, tmp_path: Path, written: Callable[..., str]
) -> None:
    suite, own = parse_suite(written(), "s"), tmp_path / "data"
    shutil.copytree(data, own)
    before = cells_of(suite, tmp_path, own)
    weights = own / "tiny" / "model.safetensors"
    content = weights.read_bytes()
    assert len(content) > 8192
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size, behind the same beginning
    assert not {cell.key for cell in before} & {cell.key for cell in cells_of(suite, tmp_path, own)}


def test_widths_are_the_same_in_small_and_large_letters(cells: Make, written: Callable[..., str]) -> None:
    lines: dict[str, Any] = {
        "bits": ["W4A4"],
        "recipes": {"rtn": {"bits": ["w4a4"]}, "repq": {"bits": ["W4A4"]}},
        "claims": [{"better": "repq", "than": "rtn", "bits": ["W4A4"]}],
    }
    suite = parse_suite(written(**lines), "s")
    assert suite.bits == suite.claims[0].bits == suite.recipes["repq"].bits == ("w4a4",)
    assert len(cells(**lines)) == 3


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"images": "photos"}, "images '.*photos': no such folder or file; .*--data"),
        ({"recipes": {"rtn": {"images": "photos"}}}, "images '.*photos': no such folder or file; .*--data"),
        ({"validation": "calibration/a"}, "validation '.*a': the images .* have no labels"),
        ({"models": {"Tiny": {"model": "tiny", "weights": "w.safetensors"}}}, "weights '.*w.safetensors'"),
        ({"recipes": ["rtm"]}, "recipe 'rtm', w4a4, budget 'quick': .*did you mean 'rtn'"),
        ({"recipes": {"rtn": {"set": {"insert.scop": "full"}}}}, "recipe 'rtn', w4a4.*insert.scop"),
        ({"bits": ["w4"]}, "recipe 'rtn', w4"),
        ({"recipes": ["mgrq"], "budgets": ["quik"]}, "recipe 'mgrq'.*no budget 'quik'"),
    ],
)
def test_what_is_not_there_is_told_before_any_work(cells: Make, lines: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        cells(**lines)

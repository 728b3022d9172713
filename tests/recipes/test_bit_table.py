"""Bit tables as files."""

from pathlib import Path

import pytest

from vitq.bits import AverageBits, Bits, BitTable, mixed_label
from vitq.errors import RecipeError
from vitq.recipes.bit_table import read_table, table_of, write_table

BITS = {
    "patch/weight": 8,
    "blocks.0.fc/weight": 4,
    "blocks.1.fc/weight": 4,
    "blocks.2.fc/weight": 2,
    "layers.0.blocks.11.attn/key": 3,
    "layers.1.blocks.2.attn/key": 5,
    "layers.1.blocks.3.attn/key": 5,
    "odd[1]/input": 6,
}


def test_tables_are_short_and_read_back_equal(tmp_path: Path) -> None:
    table = table_of(BITS, Bits(4, 4))
    path = tmp_path / "bits.yaml"
    path.write_text(write_table(table))
    again = read_table(path)
    assert dict(again.sites) == dict(table.sites) and again.base == Bits(4, 4)
    assert {site: again.bits_of(site) for site in BITS} == BITS
    assert again.bits_of("elsewhere/input") is None
    assert list(table.sites)[:2] == ["blocks.*.fc/weight", "layers.*.blocks.*.attn/key"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "write 'bits: w4a4'"),
        ("sites: {a: 4}", "'bits' is missing"),
        ("bits: w4a4\nsite: {}", "did you mean 'sites'"),
        ("bits: w4a4\nsites: [a]", "must be 'glob: bits'"),
        ("bits: w4a4\nsites: {a: 9}", "9 bits; 2 to 8"),
        ("bits: w4a4\nsites: {a: true}", "whole number"),
        ("bits: w4a4\nsites: {a: four}", "whole number"),
        ("bits: w4a4\nsites: {a: 4, a: 5}", "written twice"),
        ("bits: w44", "not understood"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        read_table(path)
    assert "own.yaml" in str(caught.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml' cannot be read"):
        read_table(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="is no file"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4.5", (4.5, 4.5)), ("w3A4.5", (3.0, 4.5)), ("w3", (3.0, None)), (" a6 ", (None, 6.0))],
)
def test_averages_are_read(text: str, expected: tuple[float | None, float | None]) -> None:
    found = AverageBits.parse(text)
    assert (found.weights, found.activations) == expected


@pytest.mark.parametrize("text", ["", "a", "w4w4", "4,5", "-3", "a4w4", "4.5.1"])
def test_other_averages_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="not understood"):
        AverageBits.parse(text)


def test_labels_are_short() -> None:
    assert mixed_label(4.5, 3.998) == "mixed w4.5a4" and mixed_label(None, 5.0) == "mixed a5"


def test_a_table_holds_bits_alone() -> None:
    with pytest.raises(RecipeError, match="2 to 8"):
        BitTable(Bits(4, 4), {"a": 12})

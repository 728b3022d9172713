"""Tables and units on the console."""

import io

import pytest
from rich.console import Console

from vitq.calibrate.scope import ScopeRow
from vitq.report import comparison_table, scope_table
from vitq.report.units import duration, memory, number, percent, size, size_with_ratio


def test_scope_table_shows_floating_point_as_such() -> None:
    console = Console(file=io.StringIO(), width=120)
    rows = (
        ScopeRow("weight", "weight", 50, "affine", 4, "channel", "blocks.0.attn.qkv/weight"),
        ScopeRow("image", "activation", 1, "floating point", 32, "-", "patch_embed.proj/input"),
        ScopeRow("other", "activation", 2, "log2", 3, "tensor", "x[0]/input"),
    )
    console.print(scope_table(rows, "paper scope, w4a4"))
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["weight", "weight", "50", "affine", "4", "channel", "blocks.0.attn.qkv/weight"] in lines
    assert ["image", "activation", "1", "floating", "point", "32", "-", "patch_embed.proj/input"] in lines
    assert ["other", "activation", "2", "log2", "3", "tensor", "x[0]/input"] in lines
    assert ["52", "of", "53", "sites", "quantized"] in lines


def test_comparison_of_nothing_is_a_table() -> None:
    assert comparison_table({}).row_count == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(84.05), "84.0 %"),
        (percent(None), "-"),
        (number(0.000123456), "0.000123"),
        (size(950), "950 B"),
        (size(5_717_416), "5.72 MB"),
        (size(999_900), "1 MB"),
        (size(123_456), "123 kB"),
        (size(None), "-"),
        (size_with_ratio(10, None), "10 B"),
        (size_with_ratio(1000, 7500), "1 kB (7.5x smaller)"),
        (memory(3.5 * 2**30), "3.50 GiB"),
        (memory(5 * 2**20), "5 MiB"),
        (duration(8.46), "8.5 s"),
        (duration(59.96), "1 min 00 s"),
        (duration(3599.7), "1 h 00 min"),
        (duration(7500), "2 h 05 min"),
        (duration(None), "-"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected

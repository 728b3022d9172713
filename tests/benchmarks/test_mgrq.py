"""benchmarks/mgrq.py: what the suite measured becomes rows, each once, and every row that is kept is of the suite."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vitq.suites.suite import load_suite


@pytest.fixture
def mgrq(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("mgrq")


def test_a_cell_becomes_a_row_once(mgrq: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    costs = {key: 1 for key in mgrq.KEPT}
    place = {"model": "ViT-Tiny", "recipe": "mgrq, 100 steps", "bits": "w3a3", "budget": "quick", "seed": 2}
    cells = [
        {**place, **costs, "score": 40.0, "scores": {"top1": 40.0, "top5": 60.0}},
        {**place, **costs, "recipe": "floating point", "bits": "w32a32", "scores": {"top1": 87.3}},
    ]
    asked: list[tuple[str, ...]] = []

    def vitq(*line: str) -> dict[str, Any]:
        asked.append(line)
        return {"cells": cells}

    monkeypatch.setattr(mgrq, "vitq", vitq)
    results = tmp_path / "rows.jsonl"
    chosen = argparse.Namespace(data=Path("d"), store=Path("s"), only="w3a3", device="cpu", jobs=1, results=results)
    mgrq.run(chosen)
    mgrq.run(chosen)
    assert asked[0] == asked[1] and asked[0][:2] == ("compare", str(mgrq.SUITE)) and asked[0][-2:] == ("--only", "w3a3")
    (row,) = mgrq.rows(results)
    assert {key: row[key] for key in mgrq.KEYS} == {
        **place,
        "model": "vit_tiny_patch16_224",
        "recipe": "mgrq",
        "tag": "100",
    }
    assert row["top1"] == 40.0 and set(mgrq.rows(mgrq.RESULTS)[0]) <= {*row, "settings"}


def test_every_row_is_of_the_suite(mgrq: ModuleType) -> None:
    suite = load_suite(mgrq.SUITE)
    named = {(name.partition(", ")[0], name.partition(", ")[2].removesuffix(" steps")) for name in suite.recipes}
    assert {(row["recipe"], row["tag"]) for row in mgrq.rows(mgrq.RESULTS)} <= named

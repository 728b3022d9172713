"""Scripts that measure by a suite: its cells become rows, each once, and every row that is kept is of the suite."""

import argparse
from collections import defaultdict
from collections.abc import Callable
from itertools import product
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

    monkeypatch.setattr("command.vitq", vitq)
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


@pytest.fixture
def reconstruction(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("reconstruction")


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("mgrq, 2 blocks", ("mgrq, 2 blocks", 100, 800)),
        ("mgrq, 2 blocks, 400 steps", ("mgrq, 2 blocks", 400, 800)),
        ("mean fisher, 128 images", ("mean fisher", 100, 128)),
    ],
)
def test_a_variant_is_told_from_its_steps_and_images(
    reconstruction: ModuleType, recipe: str, told: tuple[str, int, int]
) -> None:
    held_out = {"images": 200, "distance": 0.5, "feature_error": 0.25, "agreement": 80.0}
    place = {"model": "DeiT-Tiny", "recipe": recipe, "bits": "w3a3", "budget": "quick", "seed": 1}
    row = reconstruction.row_of(
        {**place, "held_out": held_out, "seconds": 9.87, "device": "cpu", "scores": {"top1": 40.0}}
    )
    assert (row["variant"], row["steps"], row["train"]) == told
    assert (row["kl"], row["feature_error"], row["top1"], row["model"]) == (0.5, 0.25, 40.0, "deit_tiny_patch16_224")
    assert set(reconstruction.rows(reconstruction.RESULTS)[0]) <= set(row)


def test_every_row_of_reconstruction_is_of_its_suite(reconstruction: ModuleType) -> None:
    suite, known, keys = load_suite(reconstruction.SUITE), set(), [key for key in reconstruction.KEYS if key != "model"]
    for name, entry in suite.recipes.items():
        cell = {"model": "DeiT-Tiny", "recipe": name, "seconds": 0, "device": "", "held_out": defaultdict(float)}
        for bits, seed in product(entry.bits or suite.bits, entry.seeds or suite.seeds):
            row = reconstruction.row_of({**cell, "bits": bits, "seed": seed, "scores": {"top1": 0}})
            known.add(tuple(row[key] for key in keys))
    assert {tuple(row[key] for key in keys) for row in reconstruction.rows(reconstruction.RESULTS)} <= known

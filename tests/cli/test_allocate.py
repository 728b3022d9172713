"""``vitq allocate``: options, tables, files, errors; and costs by ``vitq models --sites``."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitq.allocate import Costs, Product, Search, Sensitivities, SiteCost
from vitq.allocation import Allocation
from vitq.allocation.result import decide
from vitq.run.events import Events


@pytest.fixture
def allocation() -> Allocation:
    sites = {
        f"blocks.{i}.fc/{end}": SiteCost(f"blocks.{i}.fc/{end}", role, role == "weight", 100, 400)
        for i in range(3)
        for end, role in (("input", "other"), ("weight", "weight"))
    }
    products = tuple(Product(f"linear_{i}", f"blocks.{i}.fc/input", f"blocks.{i}.fc/weight", 400) for i in range(3))
    distance_SB = np.array([[1.0, 0.1, 0.01]]) * np.arange(1, 7)[:, None]
    found = Sensitivities(
        {"bits": "w4a4", "source": {"name": "made up"}},
        (2, 4, 8),
        tuple(sites),
        Costs(sites, products),
        {"output": distance_SB},
        np.ones((6, 3, 2)),
        np.array([[25.0, 50.0, 100.0]] * 6),
        {},
        1000,
        tuple(name.rpartition(".fc")[0] for name in sites),
    )
    limits = {"average_weights": 5.0, "average_activations": 5.0}
    return decide(found, limits, solver="program", by="output", pairs=False, keep={}, search=Search(), events=Events())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, allocation: Allocation) -> list[dict[str, Any]]:
    """Replace the Python verb by one that remembers its arguments."""
    from vitq import api

    seen: list[dict[str, Any]] = []

    def allocate(model: str, images: str | None, **options: Any) -> Allocation:
        seen.append({"model": model, "images": images, **options})
        return allocation

    monkeypatch.setattr(api, "allocate", allocate)
    return seen


def test_options_reach_the_python_verb(
    vitq_cli: Callable[..., Any], calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = vitq_cli(
        *("allocate", "deit", "--images", "photos", "--average-bits", "w3a4.5", "--size-mb", "4", "--bit-ops", "2e10"),
        *("--keep", "head/*=8", "--candidates", "2, 4,8", "--solver", "greedy", "--by", "feature", "--pairs"),
        *("--set", "calibrate.weights=mse", "--out", str(tmp_path), "--quiet"),
    )
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert (call["average_bits"], call["size_mb"], call["bit_ops"]) == ("w3a4.5", 4.0, 2e10)
    assert (call["keep"], call["candidates"], call["pairs"]) == ({"head/*": 8}, (2, 4, 8), True)
    assert (call["solver"], call["by"], call["out"], call["progress"]) == ("greedy", "feature", tmp_path, False)
    assert call["overrides"] == {"calibrate.weights": "mse"}


def test_tables_page_and_files(vitq_cli: Callable[..., Any], calls: list[dict[str, Any]], tmp_path: Path) -> None:
    run = ("allocate", "deit", "--images", "photos", "--average-bits", "5", "--out", str(tmp_path))
    shown = vitq_cli(*run)
    assert shown.exit_code == 0, shown.output
    for text in ("Bits over depth", "fc/weight", "chosen", "average bits of weights", "expected distance"):
        assert text in shown.output, text
    (table,) = tmp_path.glob("*.yaml")
    page = table.with_suffix(".html").read_text()
    assert page.count("<circle") > 3 and 'class="chosen"' in page and "blocks.2.fc/weight" in page
    data = json.loads(vitq_cli(*run, "--json").stdout)
    assert data["table"] == str(table) and set(data["bits"].values()) <= {2, 4, 8}
    assert data["costs"]["average_weights"] <= 5 and data["curve"][0]["size_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--keep", "head"), "--keep takes GLOB=BITS"),
        (("--keep", "head=²"), "--keep takes GLOB=BITS"),
        (("--keep", f"head={'8' * 5000}"), "--keep takes GLOB=BITS"),
        (("--candidates", "2;4"), "--candidates takes whole numbers"),
        (("--candidates", "2,²"), "--candidates takes whole numbers"),
        ((), "no budget"),
        (("--average-bits", "four"), "not understood"),
        (("--size-mb", "-1"), "size_mb takes"),
    ],
)
def test_wrong_options_are_bad_input(vitq_cli: Callable[..., Any], options: tuple[str, ...], text: str) -> None:
    result = vitq_cli("allocate", "nothing", *options)
    assert result.exit_code == 2 and text in result.stderr


def test_quantize_reads_a_table_before_anything_else(vitq_cli: Callable[..., Any], tmp_path: Path) -> None:
    result = vitq_cli("quantize", "deit", "--images", "photos", "--bits", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2 and "none.yaml' cannot be read" in result.stderr


def test_models_prints_the_costs_of_sites(vitq_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sites = {"fc/weight": SiteCost("fc/weight", "weight", True, 1234, 5_000_000)}
    costs = Costs(sites, (Product("linear", "fc/input", "fc/weight", 5_000_000),))
    monkeypatch.setattr(
        importlib.import_module("vitq.report.costs"), "model_costs", lambda model, scope: (costs, ("fc/weight",))
    )
    shown = vitq_cli("models", "deit", "--sites")
    assert shown.exit_code == 0 and "1,234" in shown.output and "5.00" in shown.output
    data = json.loads(vitq_cli("models", "deit", "--sites", "--json").stdout)
    assert data["macs"] == 5_000_000 and data["sites"][0]["elements"] == 1234
    assert vitq_cli("models", "--sites").exit_code == 2

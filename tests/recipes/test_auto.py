"""What a run takes where nobody chose, and what it says about fewer bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.bits import Bits, BitTable
from vitq.export.targets import PROFILES
from vitq.recipes.auto import TARGET, choose
from vitq.report.fewer_bits import LOST, SECONDS

W8, W4 = Bits(8, 8), Bits(4, 4)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (("auto", W8, None, None, {}), ("repq", TARGET)),
        (("auto", Bits(6, 6), None, None, {}), ("repq", TARGET)),
        (("auto", W8, None, "openvino", {}), ("repq", "openvino")),
        (("auto", W8, "paper", None, {}), ("repq", None)),
        (("auto", W8, None, None, {"insert.scope": "full"}), ("repq", None)),
        (("auto", W8, None, None, {"insert": {"scope": "full"}}), ("repq", None)),
        (("auto", W8, None, None, {"calibrate.images": 8}), ("repq", TARGET)),
        (("auto", BitTable(W8, {"*/query": 6}), None, None, {}), ("repq", None)),
        (("auto", BitTable(W8, {"*/query": 4}), None, None, {}), ("mgrq", None)),
        (("auto", W4, None, None, {}), ("mgrq", None)),
        (("auto", Bits(4, 8), None, "openvino", {}), ("mgrq", "openvino")),
        (("auto", Bits(8, 32), None, None, {}), ("repq", TARGET)),
        (("qdrop", W8, None, None, {}), ("qdrop", None)),
        (("rtn", W4, None, "openvino", {}), ("rtn", "openvino")),
    ],
)
def test_auto_takes_what_fits_the_bits_and_never_overrules(asked: Any, taken: Any) -> None:
    assert choose(*asked) == taken
    assert TARGET in PROFILES


def test_a_first_run_calibrates_w8a8_for_the_target_of_export_and_speaks_of_four(
    tiny: Callable[..., nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    x_NCHW = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = vitq.quantize(tiny("vit", depth=1), x_NCHW)
    config, said = model.config, " ".join(capsys.readouterr().err.split())
    assert (config.recipe["name"], config.bits, config.scope) == ("repq", "w7a8", "deploy")
    assert "fewer bits: --bits w4a4 would take" in said and f"loses {LOST[0]} to {LOST[1]} points" in said
    chosen = vitq.quantize(tiny("vit", depth=1), x_NCHW, recipe="rtn")
    assert chosen.config.scope == "paper" and "fewer bits" not in capsys.readouterr().err


def test_what_is_said_of_four_bits_is_what_was_measured() -> None:
    lines = (Path(__file__).parents[2] / "benchmarks" / "results" / "mgrq.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    quick = {r["model"]: r for r in rows if (r["recipe"], r["bits"], r["tag"]) == ("mgrq", "w4a4", "")}
    floating = {"deit_tiny_patch16_224": 84.1, "vit_tiny_patch16_224": 87.3}
    assert quick["deit_tiny_patch16_224"]["seconds"] == pytest.approx(SECONDS, rel=0.01)
    assert tuple(round(floating[model] - quick[model]["top1"]) for model in floating) == LOST

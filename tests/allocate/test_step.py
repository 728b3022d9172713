"""Step ``allocate``: bits that average the run's, inside a recipe."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.allocate import site_costs
from vitq.allocation import step as module
from vitq.errors import AllocationError, RecipeError
from vitq.graph import capture

RECIPE = """name: own
summary: rounding with bits where they matter
source: a test
steps:
  - insert
  - calibrate: {weights: mse, activations: mse}
  - allocate: {solver: greedy, candidates: [2, 4, 6, 8], keep: {"head/*": {bits: 8}}}
"""


def test_bits_average_what_the_run_was_asked_for(
    attend: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(RECIPE)
    options = {"recipe": recipe, "bits": "w5a4", "out": tmp_path / "run", "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr("vitq.verbs.quantize.segment_errors", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vitq.quantize(attend, images, **options)  # a run that ends behind its steps
    monkeypatch.setattr(module, "calibrate_candidates", lambda *_, **__: pytest.fail("ran the trials again"))
    model = vitq.quantize(attend, images, resume=True, **options)
    assert model.config.bits == "mixed w5a4"
    assert vitq.quantize(attend, images, resume=True, **options).config == model.config
    bits = {name: site.format["bits"] for name, site in model.config.sites.items()}
    costs = site_costs(capture(attend, images))
    averages = (costs.average(bits, weights=True), costs.average(bits, weights=False))
    assert averages[0] is not None and 3 < averages[0] <= 5 and averages[1] is not None and 3 < averages[1] <= 4
    assert bits["head/weight"] == bits["head/input"] == 8 and len(set(bits.values())) > 2
    assert vitq.load(tmp_path / "run")(images).equal(model(images))
    assert "Bits over depth" in (tmp_path / "run" / "report.html").read_text()


def test_a_step_that_cannot_choose_says_why(attend: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(RECIPE.replace("[2, 4, 6, 8]", "[6, 8]"))
    with pytest.raises(AllocationError, match="average bits of weights of at most 4; the least is 6"):
        vitq.quantize(attend, images, recipe=recipe, bits="w4a8", progress=False)
    recipe.write_text(RECIPE.replace("  - calibrate: {weights: mse, activations: mse}\n", ""))
    with pytest.raises(RecipeError, match="calibrates nothing"):
        vitq.quantize(attend, images, recipe=recipe, bits="w4a4", progress=False)

"""Which scope a run has: the overrides', the caller's, the recipe's, the target's, in this order."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import ExportError, ModelError, RecipeError
from vitq.recipes.for_target import recipe_for

HEAD = "name: own\nsummary: a\nsource: b\nsteps:\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(f"{HEAD}- insert: {{scope: deploy}}\n- calibrate\n")
    return tmp_path / "own.yaml"


def scope(*arguments: object) -> str:
    recipe, given, target, *overrides = arguments
    plan = recipe_for(recipe, "quick", given, target, *(overrides or [{}]))  # type: ignore[arg-type]
    return plan.steps[0].scope  # type: ignore[attr-defined,no-any-return]


def test_a_recipes_own_scope_is_overruled_by_none_but_the_caller(own: Path) -> None:
    assert scope(own, None, None) == "deploy"
    assert scope(own, "paper", None) == "paper"
    assert scope(own, None, None, {"insert.scope": "paper"}) == "paper"
    assert scope(own, None, "onnxruntime") == "deploy"
    assert scope("rtn", None, None) == "paper"
    assert scope("rtn", None, "openvino") == "deploy"
    assert scope("rtn", "paper", "onnxruntime") == "paper"


def test_a_scope_that_a_target_does_not_have_is_refused_whoever_says_it(own: Path) -> None:
    own.write_text(own.read_text().replace("deploy", "paper"))
    assert scope(own, None, "onnxruntime") == "paper"
    assert scope(own, "deploy", "openvino") == "deploy"
    for given in (None, "paper"):
        with pytest.raises(ExportError, match="of scope deploy, not paper"):
            scope(own, given, "openvino")


def test_a_recipe_that_inserts_nothing_runs_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"{HEAD}- smooth\n")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.Linear(32, 5)).eval()
    images = torch.randn(4, 3, 8, 8)
    quantized = vitq.quantize(
        model, images, recipe=tmp_path / "own.yaml", bits="w4a4", out=tmp_path / "run", progress=False
    )
    assert quantized.config.scope == "none"
    assert torch.allclose(vitq.load(tmp_path / "run")(images), model(images), atol=1e-5)
    assert any(name == "nothing-quantized" for name, _ in quantized.metrics.warnings)
    with pytest.raises(RecipeError, match="no step 'insert'"):
        vitq.quantize(model, images, recipe=tmp_path / "own.yaml", bits="w4a4", scope="deploy", progress=False)


def test_a_model_without_anything_to_quantize_is_refused() -> None:
    images = torch.randn(4, 3, 8, 8)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(192))
    with pytest.raises(ModelError, match="nothing to quantize"):
        vitq.quantize(model, images, recipe="rtn", bits="w4a4", progress=False)

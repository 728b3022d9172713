"""The recipes that come with vitq: they resolve, and each has the idea that it is named after."""

from typing import Any

import pytest

from vitq.recipes import list_recipes, load_recipe

NAMES = [recipe.name for recipe in list_recipes()]
RECONSTRUCTING = [name for name in NAMES if name not in ("rtn", "repq")]


def step(name: str, step_name: str, budget: str = "quick") -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [s[step_name] for s in load_recipe(name, budget=budget).to_dict()["steps"] if step_name in s]
    return found


@pytest.mark.parametrize("budget", ["quick", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_it_resolves_and_survives_a_round_trip(name: str, budget: str, tmp_path: Any) -> None:
    recipe = load_recipe(name, budget=budget)
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(copy) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_every_key_can_be_overridden_with_its_own_value(name: str) -> None:
    recipe = load_recipe(name)
    for item in recipe.to_dict()["steps"]:
        ((step_name, options),) = item.items()
        if len([s for s in recipe.steps if s.step_name == step_name]) > 1:
            continue
        for key, value in options.items():
            assert load_recipe(name, overrides={f"{step_name}.{key}": value}) == recipe


@pytest.mark.parametrize("name", RECONSTRUCTING)
def test_full_takes_more_steps_than_quick(name: str) -> None:
    assert step(name, "reconstruct", "full")["steps"] > step(name, "reconstruct", "quick")["steps"] > 0


def test_weights_keep_a_scale_per_channel() -> None:
    assert {step(name, "insert")["weight"]["granularity"] for name in NAMES} == {"channel"}


def test_the_ideas() -> None:
    assert [s.step_name for s in load_recipe("rtn").steps] == ["insert", "calibrate"]
    for name in ("repq", "mgrq"):
        assert "transfer_scales" in [s.step_name for s in load_recipe(name).steps]
        assert step(name, "insert")["post_norm"]["granularity"] == "channel"
    assert step("brecq", "reconstruct")["learn"]["rounding"] > 0
    assert step("brecq", "reconstruct")["drop_activations"] == 0
    assert step("qdrop", "reconstruct")["drop_activations"] == 0.5
    assert step("pd-quant", "reconstruct")["global_on"] == "logits"
    assert all(step("mgrq", "reconstruct")[term] > 0 for term in ("block", "global", "local"))

"""Values of options: finite, in range, of the right type, by whatever way they come in."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vitq.errors import RecipeError
from vitq.recipes import load_recipe, parse_assignments
from vitq.recipes.known import known_steps
from vitq.recipes.schema import option_keys
from vitq.reconstruct import Choose, Reconstruct


@pytest.mark.parametrize(
    "assignment",
    [
        "reconstruct.learn.weights=.nan",
        "reconstruct.learn.weights=-1",
        "reconstruct.learn.weights=true",
        "reconstruct.objective.block=.inf",
        "reconstruct.objective.block=1e400",
        "reconstruct.objective.temperature=.inf",
        "reconstruct.schedule=[]",
        "reconstruct.schedule=[blok]",
        "reconstruct.schedule=['0']",
        "reconstruct.schedule=['\u00b2']",
        "reconstruct.steps=true",
        "reconstruct.steps=1:30",
        "reconstruct.steps=1.5",
        "reconstruct.steps=99999999999999",
        "reconstruct.steps=" + "9" * 39,
        "reconstruct.choose.kappa=.inf",
        "reconstruct.choose.among=[blok]",
        "reconstruct.choose={among: [], outlier_quantiles: []}",
        "reconstruct.choose.outlier_quantiles=[2]",
        "reconstruct.objective.curvature=fishr",
        "reconstruct.objective.extra.nosuchterm=1",
        "reconstruct." + "a." * 3000 + "b=1",
        "reconstruct.999999999999999999999=3",
        "calibrate.weights=nosuchsearch",
        "calibrate.images=.inf",
        "insert.overrides={a: {bits: true}}",
        "smooth.threshold=.nan",
    ],
)
def test_a_value_that_no_option_takes_is_refused(assignment: str) -> None:
    recipe = "pfcr" if assignment.startswith("smooth") else "mgrq"
    with pytest.raises(RecipeError, match=f"recipe '{recipe}'") as caught:
        load_recipe(recipe, overrides=parse_assignments([assignment]))
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize(
    "options",
    [{"objective": {"block": float("nan")}}, {"steps": True}, {"learn": {"weights": float("inf")}}, {"noise": True}],
)
def test_a_step_made_in_python_is_checked_too(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Reconstruct(**options)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("reconstruct.weigh", r"unknown key 'reconstruct.weigh'; it is now 'reconstruct.objective.curvature'"),
        ("reconstruct.even", r"'reconstruct.even'; it is now 'reconstruct.equal_total_steps'"),
        ("reconstruct.rounding_weight", r"it is now 'reconstruct.rounding.weight'"),
        ("reconstruct.held_out", r"it is now 'reconstruct.evaluation.held_out'"),
        ("reconstruct.global_batch", r"did you mean 'reconstruct.objective.global_batch'"),  # not batch, which is near
        ("reconstruct.noise.average", r"did you mean 'reconstruct.evaluation.average'"),
        ("reconstruct.objective.globl", r"did you mean 'reconstruct.objective.global'"),
        ("mix_inputs", r"'mix_inputs' names no step; did you mean 'reconstruct.noise.mix_inputs'"),
    ],
)
def test_a_key_that_stands_elsewhere_today_is_refused_with_its_place(key: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("mgrq", overrides={key: 1})


def test_every_former_name_leads_to_an_option_of_today() -> None:
    for name, step in known_steps().items():
        for former, now in step.renamed.items():
            assert former not in option_keys(step) and now in option_keys(step), (name, former)


def test_keys_of_a_group_change_no_others_by_every_way_in(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "{name: r, summary: a, source: b, extends: mgrq, steps: [reconstruct: {objective: {local: 0}}], "
        "budgets: {quick: {reconstruct.noise.mix_inputs: 0.25}}}"
    )
    recipe = load_recipe(tmp_path / "r.yaml", overrides={"reconstruct.objective.temperature": 9})
    (step,) = (step for step in recipe.steps if isinstance(step, Reconstruct))
    assert (step.objective.local, step.objective.temperature) == (0, 9)
    assert (step.objective.curvature, step.objective.global_) == ("perturbed", 0.1)  # of mgrq
    assert (step.noise.mix_inputs, step.noise.drop_activations) == (0.25, 0)  # of block


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"objective": {"block": True}}, "reconstruct.objective.block"),
        ({"choose": {"steps": True}}, "reconstruct.choose.steps"),
        ({"noise": {"mix_inputs": float("nan")}}, "reconstruct.noise.mix_inputs"),
        ({"compute": True}, "reconstruct.compute"),
    ],
)
def test_what_a_group_refuses_is_named_by_its_whole_key(options: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=f"'{key}': input should"):
        load_recipe("mgrq", overrides={"reconstruct": options})


def test_an_option_that_may_be_true_takes_true_and_groups_pass_as_they_are() -> None:
    assert Reconstruct(equal_total_steps=True, choose=Choose(kappa=3)).choose == Choose(kappa=3)
    assert load_recipe("mgrq", overrides={"insert.weight.symmetric": True}).steps


def test_a_default_of_the_caller_yields_to_what_the_recipe_says() -> None:
    scope = {"insert.scope": "deploy"}
    written = load_recipe("rtn", overrides={"insert.scope": "paper"}).to_yaml()
    assert "scope: paper" in written

    def scopes(recipe: str, **options: Any) -> list[str]:
        return [step.scope for step in load_recipe(recipe, **options).steps if step.step_name == "insert"]  # type: ignore[attr-defined]

    assert scopes("rtn") == ["paper"]
    assert scopes("pfcr", defaults=scope) == ["deploy", "deploy"]
    assert scopes("rtn", defaults=scope, overrides={"insert.scope": "paper"}) == ["paper"]

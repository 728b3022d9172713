"""Values of options: finite, in range, of the right type, by whatever way they come in."""

from typing import Any

import pytest
from pydantic import ValidationError

from vitq.errors import RecipeError
from vitq.recipes import load_recipe, parse_assignments
from vitq.reconstruct import Choose, Reconstruct


@pytest.mark.parametrize(
    "assignment",
    [
        "reconstruct.learn.weights=.nan",
        "reconstruct.learn.weights=-1",
        "reconstruct.learn.weights=true",
        "reconstruct.block=.inf",
        "reconstruct.block=1e400",
        "reconstruct.temperature=.inf",
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
        "reconstruct.weigh=fishr",
        "reconstruct.extra.nosuchterm=1",
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


@pytest.mark.parametrize("options", [{"block": float("nan")}, {"steps": True}, {"learn": {"weights": float("inf")}}])
def test_a_step_made_in_python_is_checked_too(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Reconstruct(**options)


def test_an_option_that_may_be_true_takes_true_and_groups_pass_as_they_are() -> None:
    assert Reconstruct(even=True, choose=Choose(kappa=3)).choose == Choose(kappa=3)
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

"""Recipe files: defaults, budgets, extension, and what is said when something is wrong."""

from pathlib import Path
from typing import Any

import pytest

from vitq.errors import RecipeError
from vitq.recipes import ResolvedRecipe, list_recipes, load_recipe
from vitq.run.step import STEPS, Step, register_step

pytestmark = pytest.mark.usefixtures("dummy_steps")

HEAD = "name: {name}\nsummary: a test\nsource: nobody\n"
PARENT = """
steps:
  - look: {images: 64}
  - tune: {steps: 800, rates: {scales: 4e-5}}
budgets:
  quick: {tune.steps: 100}
  full: {tune: {steps: 20000, rates: {scales: 1e-4}}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, body: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(HEAD.format(name=name) + body, encoding="utf-8")
        return path

    return write


def options(recipe: ResolvedRecipe, place: int) -> dict[str, Any]:
    return next(iter(recipe.to_dict()["steps"][place].values()))


def names(recipe: ResolvedRecipe) -> list[str]:
    return [step.step_name for step in recipe.steps]


def test_every_default_is_written_out(write: Any) -> None:
    recipe = load_recipe(write("r", "steps:\n- look\n- tune:\n"))
    assert recipe.to_dict() == {
        "name": "r",
        "summary": "a test",
        "source": "nobody",
        "budget": None,
        "steps": [
            {"look": {"images": 32, "search": "mse"}},
            {
                "tune": {
                    "steps": 1000,
                    "drop": 0.5,
                    "schedule": ["block"],
                    "rates": {"weights": 1e-3, "scales": 4e-5},
                    "objective": {"kind": "mse", "weight": 1.0},
                    "shares": {"block": 1.0, "network": 0.5},
                    "rollback": True,
                    "global": 0.0,
                }
            },
        ],
    }


@pytest.mark.parametrize(("budget", "steps", "scales"), [("quick", 100, 4e-5), ("full", 20000, 1e-4)])
def test_budgets_change_the_steps_and_keep_the_rest(write: Any, budget: str, steps: int, scales: float) -> None:
    recipe = load_recipe(write("r", PARENT), budget=budget)
    assert recipe.budget == budget
    tune = options(recipe, 1)
    assert (tune["steps"], tune["rates"]) == (steps, {"weights": 1e-3, "scales": scales})


def test_overrides_win_over_the_budget(write: Any) -> None:
    recipe = load_recipe(write("r", PARENT), budget="quick", overrides={"tune.steps": 7, "look.search": "percentile"})
    assert options(recipe, 1)["steps"] == 7
    assert options(recipe, 0) == {"images": 64, "search": "percentile"}


@pytest.mark.parametrize("budget", ["quick", "full"])
def test_a_resolved_recipe_written_to_a_file_is_the_same_recipe(write: Any, tmp_path: Path, budget: str) -> None:
    recipe = load_recipe(
        write("r", PARENT), budget=budget, overrides={"tune.objective": {"kind": "kl"}, "tune.global": 2}
    )
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(copy, budget="quick") == recipe


def test_a_derived_recipe_is_three_lines(write: Any) -> None:
    write("parent", PARENT)
    child = write("child", "extends: parent.yaml\nsteps:\n- tune: {drop: 0, rates: {weights: 2e-5}}\n")
    recipe = load_recipe(child, budget="full")
    assert recipe.name == "child"
    assert options(recipe, 0)["images"] == 64
    tune = options(recipe, 1)
    assert (tune["drop"], tune["steps"], tune["rates"]) == (0, 20000, {"weights": 2e-5, "scales": 1e-4})


def test_budgets_of_a_derived_recipe_lie_over_those_of_its_parent(write: Any) -> None:
    write("parent", PARENT)
    child = write(
        "child",
        "extends: parent.yaml\nbudgets:\n  full: {tune: {rates: {scales: 3.0}}}\n  huge: {tune.steps: 1}\n",
    )
    full = options(load_recipe(child, budget="full"), 1)
    assert (full["steps"], full["rates"]["scales"]) == (20000, 3.0)
    assert options(load_recipe(child, budget="quick"), 1)["steps"] == 100
    assert options(load_recipe(child, budget="huge"), 1)["steps"] == 1


@pytest.mark.parametrize(
    ("steps", "expected", "images"),
    [
        ("[look: {images: 9}, extra]", ["look", "extra", "tune"], [9]),
        ("[extra]", ["look", "tune", "extra"], [64]),
        ("[tune, extra, extra]", ["look", "tune", "extra", "extra"], [64]),
        ("[look, extra, look: {images: 5}, tune]", ["look", "extra", "look", "tune"], [64, 5]),
        ("[look, look: {images: 5}, tune: {steps: 1}]", ["look", "look", "tune"], [64, 5]),
        ("[look: remove]", ["tune"], []),
        ("[look: remove, extra]", ["extra", "tune"], []),
    ],
)
def test_a_derived_recipe_adds_and_removes_steps(
    write: Any, steps: str, expected: list[str], images: list[int]
) -> None:
    @register_step("extra")
    class Extra(Step):
        def apply(self, run: object) -> None: ...

    try:
        write("parent", PARENT)
        recipe = load_recipe(write("child", f"extends: parent.yaml\nsteps: {steps}\n"))
    finally:
        STEPS.remove("extra")
    assert names(recipe) == expected
    assert [options(recipe, k)["images"] for k, name in enumerate(expected) if name == "look"] == images


def test_grandparents(write: Any) -> None:
    write("a", PARENT)
    write("b", "extends: a.yaml\nsteps:\n- tune: {drop: 0.25}\n")
    recipe = load_recipe(write("c", "extends: b.yaml\nsteps:\n- look: {images: 1}\n"))
    assert options(recipe, 0)["images"] == 1
    assert options(recipe, 1)["drop"] == 0.25


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("stepz: []\n", "unknown key 'stepz'; did you mean 'steps'"),
        ("steps:\n- tunne: {}\n", "unknown step 'tunne'; did you mean 'tune'"),
        ("steps:\n- tune: {stepz: 1}\n", r"unknown key 'tune\.stepz'; did you mean 'tune\.steps'"),
        (
            "steps:\n- tune: {rates: {weigths: 1}}\n",
            r"'tune\.rates\.weigths'; did you mean 'tune\.rates\.weights'",
        ),
        ("steps:\n- tune: {steps: many}\n", r"'tune\.steps': input should be a valid integer.*got 'many'"),
        ("steps:\n- tune: {drop: 1.5}\n", r"'tune\.drop': drop is a probability below 1, got 1\.5"),
        (
            "steps:\n- look: {images: 0}\n",
            r"'look\.images': input should be greater than or equal to 1, got 0",
        ),
        (
            "steps:\n- tune: {objective: {kind: kl, temp: 1}}\n",
            r"'tune\.objective\.temp'.*'tune\.objective\.temperature'",
        ),
        ("steps:\n- tune: {global_: 1}\n", r"unknown key 'tune\.global_'; did you mean 'tune\.global'"),
        ("steps:\n- tune: {objective: {kind: l1}}\n", r"'tune\.objective'.*'mse', 'kl'"),
        (
            "steps:\n- look: {images: 1}\n- look: {imagse: 1}\n",
            r"'look\.1\.imagse'; did you mean 'look\.1\.images'",
        ),
        ("steps:\n- tune: 5\n", "options of step 'tune' must be"),
        ("steps:\n- {tune: {}, look: {}}\n", "a step is one name with its options"),
        ("steps: tune\n", "steps must be a list"),
        ("steps: []\n", "has no steps"),
        ("steps:\n- tune: {steps: 1, steps: 2}\n", "line 5: key 'steps' is written twice"),
        ("steps: [\n", "line"),
        ("steps:\n- look: remove\n", "no parent"),
        ("extends: nowhere\n", "no recipe 'nowhere'"),
        ("extends: r.yaml\n", "circle"),
        (
            "steps:\n- tune\nbudgets:\n  quick: {tune.stepz: 1}\n",
            r"budget 'quick'.*'tune\.stepz'; did you mean 'tune\.steps'",
        ),
        ("steps:\n- tune\nbudgets:\n  small: {}\n", "no budget 'quick'; choose one of: small"),
    ],
)
def test_mistakes_are_named_with_the_remedy(write: Any, body: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write("r", body))


def test_a_recipe_without_budgets_takes_both_and_no_other(write: Any) -> None:
    path = write("r", "steps: [look]\n")
    assert load_recipe(path, budget="full") == load_recipe(path, budget="quick")
    with pytest.raises(RecipeError, match="no budget 'ful'; did you mean 'full'"):
        load_recipe(path, budget="ful")


@pytest.mark.parametrize("text", ["- a list", "just words", ""])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError, match="a recipe is"):
        load_recipe(tmp_path / "x.yaml")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("x.yaml", "y.yaml"):
        with pytest.raises(RecipeError, match="cannot be read"):
            load_recipe(tmp_path / name)


def test_unknown_recipes_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no recipe 'mgqr'; did you mean 'mgrq'"):
        load_recipe("mgqr")


def test_a_step_name_belongs_to_one_class() -> None:
    with pytest.raises(RecipeError, match="'look' is already registered"):

        @register_step("look")
        class Other(Step):
            def apply(self, run: object) -> None: ...


def test_built_in_recipes_are_listed_with_summary_and_source() -> None:
    recipes = list_recipes()
    names = [recipe.name for recipe in recipes]
    assert names == sorted(names)
    assert {"brecq", "mgrq", "oas", "pd-quant", "pfcr", "qdrop", "repq", "rtn"} <= set(names)
    assert all(recipe.summary.strip() and recipe.source.strip() for recipe in recipes)

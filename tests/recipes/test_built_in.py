"""The recipes that come with vitq: they resolve, and each has the idea that it is named after."""

from typing import Any

import pytest

from vitq.calibrate import Insert
from vitq.quantizers import Granularity
from vitq.recipes import list_recipes, load_recipe

NAMES = [recipe.name for recipe in list_recipes()]
SEARCHING = ("rtn", "repq", "adalog", "fq-vit", "pwlq", "subsetq", "ptq4vit")
CALIBRATING = (*SEARCHING, "smoothquant", "sq-b", "noisyquant", "mptq-vit")
RECONSTRUCTING = [name for name in NAMES if any(s.step_name == "reconstruct" for s in load_recipe(name).steps)]


def steps(name: str, step_name: str, budget: str = "quick") -> list[dict[str, Any]]:
    return [s[step_name] for s in load_recipe(name, budget=budget).to_dict()["steps"] if step_name in s]


def step(name: str, step_name: str, budget: str = "quick") -> dict[str, Any]:
    (found,) = steps(name, step_name, budget)
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
    quick, full = ([s["steps"] for s in steps(name, "reconstruct", budget)] for budget in ("quick", "full"))
    assert all(more > fewer > 0 for fewer, more in zip(quick, full, strict=True))


def test_weights_keep_a_scale_per_channel() -> None:
    assert {insert["weight"]["granularity"] for name in NAMES for insert in steps(name, "insert")} == {"channel"}


def test_the_ideas() -> None:
    assert [s.step_name for s in load_recipe("rtn").steps] == ["insert", "calibrate"]
    for name, own in (("smoothquant", "smoothquant"), ("sq-b", "sq_b"), ("noisyquant", "add_noise")):
        assert [s.step_name for s in load_recipe(name).steps] == [own, "insert", "calibrate"]
    assert step("smoothquant", "smoothquant")["alphas"] == [0.5] and len(step("sq-b", "sq_b")["alphas"]) > 4
    assert step("ptq4vit", "insert")["post_activation"]["format"] == "twin_sign"
    assert step("ptq4vit", "calibrate")["weights"] == step("ptq4vit", "calibrate")["activations"] == "hessian"
    assert [s.step_name for s in load_recipe("mptq-vit").steps] == ["sq_b", "insert", "calibrate"]
    assert step("mptq-vit", "insert")["post_activation"]["format"] == "twin"
    for role in ("norm_input", "activation_input", "residual"):
        assert step("fq-vit", "insert")[role]["format"] == "power_of_two_factor"
        assert role in step("mptq-vit", "calibrate")["learnt_tokens"]
    assert step("mptq-vit", "insert")["norm_input"]["format"] == "whole_factor"
    for name in ("repq", "mgrq"):
        assert "transfer_scales" in [s.step_name for s in load_recipe(name).steps]
        assert step(name, "insert")["post_norm"]["granularity"] == "channel"
    assert step("brecq", "reconstruct")["learn"]["rounding"] > 0
    assert step("brecq", "reconstruct")["noise"]["drop_activations"] == 0
    assert step("qdrop", "reconstruct")["noise"]["drop_activations"] == 0.5
    assert step("pd-quant", "reconstruct")["objective"]["global_on"] == "outputs"
    assert all(step("mgrq", "reconstruct")["objective"][term] > 0 for term in ("block", "global", "local"))
    assert all(step("block", "reconstruct")["objective"][term] == 0 for term in ("global", "local"))
    assert [s["inputs"] for s in steps("pfcr", "reconstruct")] == ["floating", "quantized"]
    assert [s["only"] for s in steps("pfcr", "insert")] == ["activations", "weights"]
    assert all(s["order"] == "fine_to_coarse" for s in steps("pfcr", "reconstruct"))
    assert sum(s["steps"] * 3 for s in steps("pfcr", "reconstruct")) == pytest.approx(400, rel=0.02)  # as block
    assert step("oas", "reconstruct")["choose"]["outlier_quantiles"]
    weighing = {"fisher": "fisher", "aphq-vit": "perturbed", "fima-q": "low_rank", "ls-vit": "least_squares"}
    assert {name: step(name, "reconstruct")["objective"]["curvature"] for name in weighing} == weighing
    assert step("apq-vit", "reconstruct")["objective"]["drop_smallest"] > 0
    assert set(step("apq-vit", "insert")["probabilities"]["from_bits"].values()) == {"matthew"}
    for name in CALIBRATING:
        assert "reconstruct" not in [s.step_name for s in load_recipe(name).steps], name
    formats = {"adalog": ("probabilities", "adalog"), "fq-vit": ("norm_input", "power_of_two_factor")}
    formats |= {"pwlq": ("weight", "pwlq"), "subsetq": ("weight", "subset"), "apq-vit": ("probabilities", "matthew")}
    for name, (role, form) in formats.items():
        assert step(name, "insert")[role]["format"] == form, name
    assert step("fq-vit", "insert")["scope"] == "full"
    assert [s.step_name for s in load_recipe("pwlq").steps] == ["insert", "calibrate", "correct_biases"]
    assert step("sase", "reconstruct")["evaluation"]["average"] > 0.9
    assert step("adaquant", "reconstruct")["schedule"] == ["layer"]
    assert step("qft", "reconstruct")["schedule"] == ["network"]


def test_recipes_of_mixed_bits_allocate_behind_calibration_and_before_they_learn() -> None:
    learning = {name: ["reconstruct"] for name in ("adaquant-ip", "q-limit", "vitq-mixed")}
    behind = {"mptq-vit-mixed": [], "quantune": [], **learning}
    for name, rest in behind.items():
        names = [s.step_name for s in load_recipe(name).steps]
        assert names[names.index("allocate") - 1 :] == ["calibrate", "allocate", *rest], name
    solvers = {name: step(name, "allocate")["solver"] for name in behind}
    assert list(solvers.values()) == ["greedy", "quantune", "program", "evolutionary", "greedy"]
    assert step("mptq-vit-mixed", "allocate")["candidates"] == [4, 5, 6, 7, 8]
    assert step("mptq-vit-mixed", "insert") == step("vitq-mixed", "insert")
    assert step("mptq-vit-mixed", "insert")["scope"] == "full"
    assert step("q-limit", "allocate")["pairs"] and min(step("q-limit", "allocate")["candidates"]) == 2
    assert step("q-limit", "reconstruct")["noise"]["drop_activations"] == 0.5
    assert step("adaquant-ip", "reconstruct")["schedule"] == ["layer"]


def test_the_switches_of_pfcr() -> None:
    """The second reading of its two stages, and the number formats of probabilities (docs/methods.md)."""
    coarser = load_recipe("pfcr", overrides={"reconstruct.1.schedule": ["block", "2"]}).to_dict()["steps"]
    assert [s["reconstruct"]["schedule"] for s in coarser if "reconstruct" in s] == [
        ["unit", "block", "2"],
        ["block", "2"],
    ]
    for name in ("log2", "affine"):
        keys = {f"insert.0.probabilities.{key}": name for key in ("format", "from_bits.6")}
        insert = next(s for s in load_recipe("pfcr", overrides=keys).steps if isinstance(s, Insert))
        assert insert.probabilities is not None
        formats = {bits: insert.probabilities.at(bits, Granularity.HEAD).name for bits in (3, 4, 6)}
        assert formats == {3: name, 4: name, 6: name}


def test_glf_q_reads_as_its_method_section() -> None:
    names = [s.step_name for s in load_recipe("glf-q", budget="full").steps]
    assert names == ["rotate", "relu_mlp", "insert", "calibrate", "reconstruct"]
    rotate, relu = step("glf-q", "rotate"), step("glf-q", "relu_mlp", "full")
    assert rotate["heads"] and rotate["residual"] == "hadamard" and not rotate["choose"]
    assert (relu["clip"], relu["clipped"], relu["rate"], relu["steps"]) == (0.99, 2, 4e-5, 20000)
    own = step("glf-q", "reconstruct", "full")
    assert (own["objective"]["global"], own["objective"]["block"], own["objective"]["global_on"]) == (1, 2, "feature")
    assert (own["steps"], own["batch"], own["schedule"]) == (3000, 32, ["block"])
    assert own["learn"].keys() == {"weights", "activation_scales"}
    insert = step("glf-q", "insert")
    roles = [insert[role] or insert["activation"] for role in ("post_norm", "post_activation", "probabilities")]
    assert {role["format"] for role in roles} == {"affine"}


def test_the_budgets_of_vitq() -> None:
    fast, quick, full = ([s.step_name for s in load_recipe("vitq", budget=b).steps] for b in ("fast", "quick", "full"))
    assert fast == ["rotate", "smooth", "insert", "calibrate", "transfer_scales", "calibrate", "reconstruct"]
    assert quick == full == [*fast, "reconstruct"]
    assert not step("vitq", "rotate", "fast")["choose"] and step("vitq", "rotate", "full")["choose"]

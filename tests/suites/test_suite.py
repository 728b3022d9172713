"""A suite says which key of it is wrong."""

import re
from pathlib import Path

import pytest

from vitq.errors import SuiteError
from vitq.suites.suite import load_suite, parse_suite

GOOD = "name: a\nimages: i\nvalidation: v\nmodels: [m]\nrecipes: [rtn]\nbits: [w4a4]\n"


def test_lists_of_names_are_models_and_recipes_with_defaults() -> None:
    suite = parse_suite(GOOD, "s")
    assert suite.models["m"].model == "m" and suite.recipes["rtn"].set == {}
    assert (suite.seeds, suite.budgets, suite.limit) == ((0,), ("quick",), 1000)
    own = parse_suite(GOOD.replace("[m]", "{M: {model: x, preprocessing: {crop_pct: 0.9}}, N: y, O: }"), "s").models
    assert [entry.model for entry in own.values()] == ["x", "y", "O"]
    assert own["M"].preprocessing == {"crop_pct": 0.9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "a suite is 'key: value' lines"),
        ("name: [", "s, line 1"),
        (GOOD + "bit: [w4a4]\n", "unknown key 'bit'; did you mean 'bits'?"),
        (GOOD.replace("[m]", "{M: {model: x, weight: y}}"), "unknown key 'models.M.weight'; did you mean 'weights'?"),
        (GOOD.replace("[rtn]", "{rtn: {overrides: {}}}"), "unknown key 'recipes.rtn.overrides'"),
        (GOOD.replace("images: i\n", ""), "'images': Field required"),
        (GOOD.replace("bits: [w4a4]", "bits: []"), "'bits'"),
        (GOOD.replace("bits: [w4a4]", "bits: w4a4"), "'bits'"),
        (GOOD + "seeds: [-1]\n", "'seeds.0'"),
        (GOOD + "limit: 0\n", "'limit'"),
        (GOOD + "limit: '8'\n", "'limit'"),
        (GOOD.replace("[rtn]", "{rtn: {models: [n]}}"), "recipes.rtn names 'n' of models"),
        (GOOD + "claims: [{better: rtm, than: rtn}]\n", "claims names 'rtm' of recipes; did you mean 'rtn'?"),
        (GOOD + "claims: [{better: rtn, than: rtn}]\n", "compares 'rtn' with itself"),
        (GOOD + "published: [{name: P, source: b, bits: w4a4, scores: {n: 1.0}}]\n", "published P names 'n' of models"),
        (GOOD.replace("[rtn]", "[floating point]"), "no recipe can be called 'floating point'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(SuiteError, match=re.escape(said)) as error:
        parse_suite(text, "s")
    assert str(error.value).startswith("s")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="missing"):
        load_suite(tmp_path / "none.yaml")

"""``--set`` and budgets: dotted keys into the steps of a recipe."""

from typing import Any

import pytest

from vitq.errors import RecipeError
from vitq.recipes import parse_assignments
from vitq.recipes.entries import Entry, build
from vitq.recipes.overrides import apply_overrides, flat

pytestmark = pytest.mark.usefixtures("dummy_steps")

ENTRIES = (Entry("look", {}), Entry("tune", {"steps": 3}), Entry("look", {"images": 5}))


def overridden(key: str, value: Any) -> list[dict[str, Any]]:
    return [build(entry, "r").model_dump() for entry in apply_overrides(ENTRIES, {key: value}, "recipe 'r'")]


def test_assignments_are_read_as_yaml() -> None:
    texts = [
        "a.b=500",
        "lr=4e-5",
        "on=true",
        "mode=off",
        "s=[unit, block]",
        "n=null",
        "eq=a=b",
        "m={kind: kl}",
        "w=1.5",
    ]
    assert parse_assignments(texts) == {
        "a.b": 500,
        "lr": 4e-5,
        "on": True,
        "mode": "off",
        "s": ["unit", "block"],
        "n": None,
        "eq": "a=b",
        "m": {"kind": "kl"},
        "w": 1.5,
    }


@pytest.mark.parametrize("text", ["a.b", "=3", "a=[1"])
def test_assignments_that_cannot_be_read(text: str) -> None:
    with pytest.raises(RecipeError, match="override"):
        parse_assignments([text])


def test_a_name_means_every_step_of_that_name_and_a_position_one() -> None:
    assert [step["images"] for step in overridden("look.images", 9) if "images" in step] == [9, 9]
    assert [step["images"] for step in overridden("look.1.images", 9) if "images" in step] == [32, 9]


def test_a_partial_change_of_a_nested_default_keeps_the_rest_of_the_default() -> None:
    assert overridden("tune.rates.scales", 1.0)[1]["rates"] == {"weights": 1e-3, "scales": 1.0}
    assert overridden("tune.rates", {"scales": 1.0})[1]["rates"] == {"weights": 1e-3, "scales": 1.0}
    assert overridden("tune", {"rates": {"scales": 1.0}})[1]["rates"] == {"weights": 1e-3, "scales": 1.0}
    assert overridden("tune.shares.network", 2)[1]["shares"] == {"block": 1.0, "network": 2.0}


def test_names_that_python_reserves_are_written_without_its_underscore() -> None:
    assert overridden("tune.global", 2)[1]["global_"] == 2.0


def test_another_member_of_a_union_starts_from_its_own_defaults() -> None:
    changed = overridden("tune.objective.kind", "kl")[1]["objective"]
    assert changed == {"kind": "kl", "weight": 1.0, "temperature": 4.0}


def test_lists_are_replaced_or_changed_by_position() -> None:
    assert overridden("tune.schedule", ["unit", "block"])[1]["schedule"] == ("unit", "block")
    assert overridden("tune.schedule.0", "unit")[1]["schedule"] == ("unit",)


def test_what_was_given_is_not_changed() -> None:
    before = [dict(entry.options) for entry in ENTRIES]
    overridden("tune.shares.network", 2)
    overridden("tune.steps", 2)
    assert [dict(entry.options) for entry in ENTRIES] == before


def test_a_step_can_be_left_out() -> None:
    assert [entry.name for entry in apply_overrides(ENTRIES, {"look": "remove"}, "r")] == ["tune"]
    assert [entry.name for entry in apply_overrides(ENTRIES, {"look.0": "remove"}, "r")] == ["tune", "look"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tune.stepz", 5, r"unknown key 'tune\.stepz'; did you mean 'tune\.steps'"),
        ("tune.rates.weigth", 5, r"'tune\.rates\.weigth'; did you mean 'tune\.rates\.weights'"),
        ("look.steps", 5, r"unknown key 'look\.0\.steps'; did you mean 'tune\.steps'"),
        ("steps", 5, r"'steps' names no step; did you mean 'tune\.steps'"),
        ("tunes.steps", 5, r"no step 'tunes'.*did you mean 'tune\.steps'"),
        ("look.2.images", 5, r"2 'look' step\(s\), counted from 0"),
        ("tune", 5, "'tune' is a step; set one of its keys"),
        ("tune.steps", "abc", r"'tune\.steps': input should be a valid integer.*got 'abc'"),
        ("tune.steps", 1.5, r"'tune\.steps': input should be a valid integer.*got 1\.5"),
        ("tune.steps.deeper", 1, r"'tune\.steps'"),
        ("tune.schedule.4", "x", r"'tune\.schedule'"),
        ("look.search", "mes", r"'look\.0\.search': input should be 'mse' or 'percentile', got 'mes'"),
        ("", 5, "no step"),
    ],
)
def test_mistakes(key: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        overridden(key, value)


def test_flat() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e.f": 3}) == {"a.b.c": 1, "a.d": [2], "e.f": 3}

"""The one registry behind everything that a recipe or a caller names."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from vitq.calibrate import Insert, register_search
from vitq.errors import ExportError, ModelError, RecipeError, VitqError
from vitq.export.lowerings import register_lowering
from vitq.export.targets import PROFILES, register_target
from vitq.quantizers import Affine, register_format
from vitq.reconstruct import register_curvature, register_distance, register_schedule, register_term
from vitq.registry import Registry
from vitq.run.step import register_step
from vitq.tasks import Classes, register_task


def circle(radius: float) -> float:
    return 3 * radius


def square(side: float) -> float:
    return side**2


@pytest.fixture
def areas() -> Registry[Callable[[float], float]]:
    registry: Registry[Callable[[float], float]] = Registry("area")
    registry.add("circle", circle)
    registry.add("square", square)
    return registry


def test_what_is_registered_is_found_in_order(areas: Registry[Callable[[float], float]]) -> None:
    assert areas["square"] is square and list(areas.values()) == [circle, square]
    assert list(areas) == ["circle", "square"] and "circle" in areas and len(areas) == 2


def test_an_unknown_name_is_an_error_with_the_nearest_one(areas: Registry[Callable[[float], float]]) -> None:
    with pytest.raises(RecipeError, match="area 'sqare' does not exist; did you mean 'square'"):
        areas["sqare"]
    assert "sqare" not in areas


def test_a_name_is_taken_once_but_a_definition_may_come_again(areas: Registry[Callable[[float], float]]) -> None:
    areas.add("circle", circle)
    with pytest.raises(RecipeError, match=r"area 'circle' is already registered by .*circle; choose another name"):
        areas.register("circle")(square)


def test_the_decorator_gives_back_what_it_registers(areas: Registry[Callable[[float], float]]) -> None:
    @areas.register("triangle")
    def triangle(side: float) -> float:
        return 0.43 * side**2

    assert areas["triangle"] is triangle and triangle(1) == 0.43
    areas.remove("triangle")
    assert "triangle" not in areas


def test_the_error_is_of_the_registry_s_own_kind() -> None:
    with pytest.raises(ExportError, match="target 'x' does not exist"):
        Registry[int]("target", error=ExportError)["x"]


@pytest.mark.parametrize("name", ["", "2", "a.b", "a/b", "a b", None, circle])
def test_a_name_is_a_key_and_part_of_a_file_s_name(areas: Registry[Callable[[float], float]], name: Any) -> None:
    with pytest.raises(RecipeError, match=r"a area is registered under a name of letters"):
        areas.register(name)


def test_what_vitq_knows_without_an_entry_is_taken_but_an_option() -> None:
    areas: Registry[Callable[[float], float]] = Registry("area", reserved=["none"])
    with pytest.raises(RecipeError, match="area 'none' is vitq's own"):
        areas.register("none")(circle)
    assert areas.option("none") == "none" and list(areas) == []
    with pytest.raises(ValueError, match="area 'nome' does not exist; did you mean 'none'"):
        areas.option("nome")
    with pytest.raises(ValueError, match="area 'x' does not exist; none is registered"):
        Registry[int]("area").option("x")


def test_an_entry_of_another_kind_is_refused_where_it_registers() -> None:
    with pytest.raises(RecipeError, match="step 'x' must be a Step, not <function circle"):
        register_step("x")(circle)  # type: ignore[type-var]
    with pytest.raises(RecipeError, match="area 'x' must be something to call, not 5"):
        Registry("area").register("x")(5)
    with pytest.raises(RecipeError, match="distance 'x' must be a Local, not 5"):
        register_distance("x")(5)  # type: ignore[type-var]
    with pytest.raises(ExportError, match="target 'x' must be a Profile"):
        register_target("x")(dict)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("register", "known", "error"),
    [
        (register_format, "affine", RecipeError),
        (register_step, "insert", RecipeError),
        (register_search, "mse", RecipeError),
        (register_search, "output", RecipeError),
        (register_schedule, "block", RecipeError),
        (register_term, "global", RecipeError),
        (register_curvature, "fisher", RecipeError),
        (register_curvature, "none", RecipeError),
        (register_distance, "kl", RecipeError),
        (partial(register_lowering, operation="affine"), "affine", ExportError),
        (register_target, "qnn", ExportError),
        (register_task, "classes", ModelError),
    ],
)
def test_every_kind_refuses_a_name_that_is_taken(register: Any, known: str, error: type[VitqError]) -> None:
    thing: Any = {register_format: Affine, register_step: Insert, register_task: Classes}.get(register, circle)
    if register is register_target:
        thing = lambda: PROFILES["qnn"]  # noqa: E731
    if register in (register_format, register_step, register_task):
        thing = type("Another", (thing,), {})
    with pytest.raises(error, match=f"'{known}' is (already registered by vitq|vitq's own).*choose another name"):
        register(known)(thing)


def test_what_a_block_registers_is_forgotten_behind_it(areas: Registry[Callable[[float], float]]) -> None:
    with areas.kept():
        areas.remove("circle")
        areas.add("triangle", lambda side: 0.43 * side**2)
    assert list(areas) == ["circle", "square"] and areas.origin("circle").endswith("test_registry.circle")

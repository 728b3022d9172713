"""Solvers beside brute force, and the laws that they keep."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, milp

from vitq.allocate import SOLVERS, Problem, Search, Sensitivities
from vitq.allocate.problem import ACTIVATIONS, BIT_OPS, SIZE, WEIGHTS
from vitq.allocate.solvers.base import solve
from vitq.errors import AllocationError

MakeSensitivities = Callable[..., Sensitivities]


def choices(problem: Problem) -> Iterator[np.ndarray]:
    return (np.array(c) for c in product(range(len(problem.bits)), repeat=len(problem.sites)))


def halfway(problem: Problem, name: str) -> float:
    """A limit between the least and the most."""
    return 0.6 * problem.cost(name, problem.lowest) + 0.4 * problem.cost(name, problem.highest)


def other(problem: Problem) -> np.ndarray:
    """What would be best if the last site were as sensitive as the first."""
    return solve(replace(problem, distance_SB=problem.distance_SB[::-1]), "program", Search())


@pytest.mark.parametrize(
    "limits", [(WEIGHTS, ACTIVATIONS), (SIZE,), (BIT_OPS,), (WEIGHTS, BIT_OPS), (SIZE, ACTIVATIONS)]
)
@pytest.mark.parametrize("pairs", [False, True])
def test_the_program_is_the_best_of_all(
    make_sensitivities: MakeSensitivities, limits: tuple[str, ...], pairs: bool
) -> None:
    problem = make_sensitivities(3, seed=len(limits)).problem({}, pairs=pairs)
    problem = problem.within({name: halfway(problem, name) for name in limits})
    found = solve(problem, "program", Search())
    best = min(problem.distance(choice) for choice in choices(problem) if not problem.unmet(choice))
    assert problem.distance(found) == pytest.approx(best, rel=1e-5)


def test_a_program_that_ran_out_of_time_says_so(
    make_sensitivities: MakeSensitivities, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **options: Any) -> Any:
        result = milp(*given, **options)
        return OptimizeResult({**result, "status": 1, "mip_gap": 0.25})

    monkeypatch.setattr("scipy.optimize.milp", stopped)
    problem = make_sensitivities(3).problem({WEIGHTS: 4.0}, pairs=True)
    told: list[tuple[str, str]] = []
    assert not problem.unmet(solve(problem, "program", Search(warn=lambda *text: told.append(text))))
    assert [name for name, _ in told] == ["program-out-of-time"] and "25.0%" in told[0][1]


def test_pairs_add_up_as_vectors_within_a_block(make_sensitivities: MakeSensitivities) -> None:
    problem = make_sensitivities(3).problem({}, pairs=True)
    choice = problem.lowest
    directions = problem.directions_SBD
    assert directions is not None
    errors = np.sqrt(problem.distance_SB[:, 0])[:, None] * directions[:, 0]
    expected = sum(np.square(errors[part].sum(0)).sum() for part in (slice(0, 4), slice(4, 6)))
    assert problem.distance(choice) == pytest.approx(expected)


@pytest.mark.parametrize("name", [SIZE, BIT_OPS])
@pytest.mark.parametrize("pairs", [False, True])
def test_greedy_gives_no_site_more_bits_under_a_smaller_budget(
    make_sensitivities: MakeSensitivities, name: str, pairs: bool
) -> None:
    problem = make_sensitivities(5, bits=(2, 3, 4, 6, 8), seed=3).problem({}, pairs=pairs)
    least, most = problem.cost(name, problem.lowest), problem.cost(name, problem.highest)
    before = problem.highest
    for share in (0.9, 0.7, 0.5, 0.3, 0.1, 0.0):
        limit = least + share * (most - least)
        choice = solve(problem.within({name: limit}), "greedy", Search())
        assert (choice <= before).all() and problem.cost(name, choice) <= limit
        before = choice
    saving = np.array([name == BIT_OPS or site.is_weight for site in problem.sites])
    assert (before == np.where(saving, problem.lowest, problem.highest)).all()


def test_greedy_goes_on_behind_sites_that_left_floating_point_together(make_sensitivities: MakeSensitivities) -> None:
    problem = make_sensitivities(8, bits=(8, 32)).problem({})
    many = problem.distance_SB.copy()
    many[:12] = 0.0
    problem = replace(problem, distance_SB=many, tied=(tuple(range(12)), (12, 13), (14, 15)))
    problem = problem.within({BIT_OPS: problem.cost(BIT_OPS, problem.lowest)})
    assert (solve(problem, "greedy", Search()) == problem.lowest).all()


def test_greedy_keeps_averages_of_weights_and_activations_apart(make_sensitivities: MakeSensitivities) -> None:
    problem = make_sensitivities(4).problem({})
    both = solve(problem.within({WEIGHTS: 3.0, ACTIVATIONS: 5.0}), "greedy", Search())
    weights = solve(problem.within({WEIGHTS: 3.0}), "greedy", Search())
    own = np.array([site.is_weight for site in problem.sites])
    assert (both[own] == weights[own]).all() and (weights[~own] == problem.highest[~own]).all()


@pytest.mark.parametrize("solver", ["program", "greedy"])
def test_a_budget_that_cannot_be_met_names_the_nearest(make_sensitivities: MakeSensitivities, solver: str) -> None:
    problem = make_sensitivities(3).problem({WEIGHTS: 1.5, ACTIVATIONS: 2.0})
    with pytest.raises(AllocationError, match=r"average bits of weights of at most 1\.5; the least is 2$"):
        solve(problem, solver, Search())


@pytest.mark.parametrize("solver", ["program", "greedy"])
def test_kept_sites_keep_their_bits(make_sensitivities: MakeSensitivities, solver: str) -> None:
    found = make_sensitivities(3)
    problem = found.problem({SIZE: 0}, keep={"blocks.1.*": 8, "blocks.1.fc0/input": 4})
    problem = problem.within({SIZE: halfway(problem, SIZE)})
    bits = problem.named(solve(problem, solver, Search()))
    assert (bits["blocks.1.fc0/weight"], bits["blocks.1.fc0/input"]) == (8, 4)
    with pytest.raises(AllocationError, match=r"no site matches 'blocks\.7\*'"):
        found.problem({}, keep={"blocks.7*": 8})
    with pytest.raises(AllocationError, match="3 bits were not tried"):
        found.problem({}, keep={"*": 3})


def test_evolution_finds_what_the_expected_distance_does_not_know(make_sensitivities: MakeSensitivities) -> None:
    found = make_sensitivities(3)
    problem = found.problem({WEIGHTS: 5.0, ACTIVATIONS: 5.0})
    start = solve(problem, "program", Search())
    wanted = other(problem)

    def measure(choice: np.ndarray) -> float:
        return float(np.abs(choice - wanted).sum())

    search = Search(measure, trials=60, seed=1)
    choice = solve(problem, "evolutionary", search)
    assert measure(choice) < measure(start) and search.left >= 0
    again = solve(problem, "evolutionary", Search(measure, trials=60, seed=1))
    assert (again == choice).all()


def test_solvers_that_measure_say_so_without_a_model(make_sensitivities: MakeSensitivities) -> None:
    with pytest.raises(AllocationError, match="measures whole models"):
        solve(make_sensitivities(2).problem({SIZE: 1e9}), "evolutionary", Search())


def test_quantune_says_what_it_needs(make_sensitivities: MakeSensitivities, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(AllocationError, match=r"vitq\[search\]"):
        solve(make_sensitivities(2).problem({SIZE: 1e9}), "quantune", Search(lambda _: 0.0))


class Ranker:
    """Stands for xgboost's: ranks by the nearest known."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def fit(self, x: np.ndarray, y: np.ndarray, qid: np.ndarray) -> None:
        self.x, self.y = x, y

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.y[np.abs(x[:, None] - self.x[None]).sum(-1).argmin(1)]


def test_quantune_measures_as_often_as_it_may_and_learns(
    make_sensitivities: MakeSensitivities, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("xgboost")
    module.XGBRanker = Ranker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xgboost", module)
    problem = make_sensitivities(3).problem({WEIGHTS: 5.0, ACTIVATIONS: 5.0})
    wanted = other(problem)
    calls: list[float] = []

    def measure(choice: np.ndarray) -> float:
        calls.append(float(np.abs(choice - wanted).sum()))
        return calls[-1]

    choice = solve(problem, "quantune", Search(measure, trials=40))
    assert len(calls) <= 40 and np.abs(choice - wanted).sum() == min(calls) < calls[0]


def test_a_solver_of_ones_own_has_to_keep_the_limits(make_sensitivities: MakeSensitivities) -> None:
    problem = make_sensitivities(2).problem({WEIGHTS: 3.0})
    with SOLVERS.kept():
        SOLVERS.register("careless")(lambda problem, search: problem.highest)
        with pytest.raises(AllocationError, match="exceeds average_weights"):
            solve(problem, "careless", Search())

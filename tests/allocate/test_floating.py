"""Floating point as a candidate: products as a whole, the loss to stay within, and what a target carries."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vitq
from vitq.allocate import Problem, Search, Sensitivities
from vitq.allocate.distance import OutputDistance
from vitq.allocate.problem import BIT_OPS, DISTANCE, WEIGHTS
from vitq.allocate.solvers.base import solve
from vitq.allocation.files import read_sensitivities
from vitq.errors import AllocationError, ArgumentError
from vitq.quantizers import FORMATS
from vitq.tasks import Classes, Values

MakeSensitivities = Callable[..., Sensitivities]
OPTIONS = {"recipe": "rtn", "progress": False}


def made(make: MakeSensitivities, layers: int = 3, seed: int = 0, target: str | None = "onnxruntime") -> Sensitivities:
    """Sensitivities with floating point, which moves nothing, and 50 percent of the score for a unit of distance."""
    found = make(layers, bits=(4, 8, 32), seed=seed)
    measures = {name: values * [1, 1, 0] for name, values in found.measures.items()}
    return replace(found, measures=measures, points=50 * measures["output"], target=target)


def choices(problem: Problem) -> Iterator[np.ndarray]:
    every = (np.array(c) for c in product(range(len(problem.bits)), repeat=len(problem.sites)))
    return (choice for choice in every if not problem.split(choice) and not problem.unmet(choice))


@pytest.mark.parametrize("pairs", [False, True])
def test_the_program_is_the_best_of_all_that_keep_products_whole(
    make_sensitivities: MakeSensitivities, pairs: bool
) -> None:
    problem = made(make_sensitivities).problem({}, pairs=pairs)
    assert problem.tied == ((0, 1), (2, 3), (4, 5))
    problem = problem.within({BIT_OPS: 0.4 * problem.cost(BIT_OPS, problem.highest)})
    found = solve(problem, "program", Search())
    best = min(problem.distance(choice) for choice in choices(problem))
    assert problem.distance(found) == pytest.approx(best, rel=1e-5)
    assert 0 < (found == problem.floating).sum() < len(found)


@pytest.mark.parametrize("pairs", [False, True])
def test_within_a_loss_the_program_takes_the_fewest_bit_operations(
    make_sensitivities: MakeSensitivities, pairs: bool
) -> None:
    found = made(make_sensitivities, seed=2)
    least = found.problem({}).distance(found.problem({}).lowest)
    problem = found.problem({}, pairs=pairs, within=50 * 0.3 * least)
    assert problem.limits[DISTANCE] == pytest.approx(0.3 * least)
    choice = solve(problem, "program", Search())
    assert problem.cost(BIT_OPS, choice) == min(problem.cost(BIT_OPS, other) for other in choices(problem))
    greedy = solve(problem, "greedy", Search())
    assert problem.cost(BIT_OPS, choice) <= problem.cost(BIT_OPS, greedy) < problem.cost(BIT_OPS, problem.highest)


@pytest.mark.parametrize("solver", ["program", "greedy"])
def test_limits_that_exclude_each_other_name_the_nearest(make_sensitivities: MakeSensitivities, solver: str) -> None:
    problem = made(make_sensitivities).problem({WEIGHTS: 4.0}, within=1e-9)
    with pytest.raises(AllocationError, match=r"the least is [0-9.e-]+$|greedy finds no bits within all limits"):
        solve(problem, solver, Search())


def test_greedy_and_evolution_keep_products_whole(make_sensitivities: MakeSensitivities) -> None:
    problem = made(make_sensitivities, 5).problem({})
    problem = problem.within({BIT_OPS: 0.3 * problem.cost(BIT_OPS, problem.highest)})
    for solver in ("greedy", "evolutionary"):
        choice = solve(problem, solver, Search(problem.distance, trials=20))
        assert not problem.split(choice) and not problem.unmet(choice), solver
    half = problem.lowest.copy()
    half[0] = problem.floating
    assert problem.split(half) == [problem.sites[0].name]


def test_a_kept_operand_takes_the_other_with_it(make_sensitivities: MakeSensitivities) -> None:
    found = made(make_sensitivities)
    problem = found.problem({}, keep={"blocks.0.fc0/weight": 32, "blocks.0.fc1/weight": 8})
    highest = problem.named(problem.highest)
    assert highest["blocks.0.fc0/input"] == 32 and highest["blocks.0.fc1/input"] == 8
    with pytest.raises(AllocationError, match="all be in floating point, or none"):
        found.problem({}, keep={"blocks.0.fc0/weight": 32, "blocks.0.fc0/input": 8})
    free = replace(found, target=None).problem({}, keep={"blocks.0.fc0/weight": 32, "blocks.0.fc0/input": 8})
    assert free.tied == ()


def test_what_is_lost_of_the_score_is_known_without_labels() -> None:
    target = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    task, p = Classes("logits"), target.softmax(-1)
    flipped = target.flip(1)
    flipped[1] = target[1]
    lost = 100 * float(p[0, 0] - p[0, 2]) / 2
    assert task.expected_loss({"logits": flipped}, {"logits": target}) == pytest.approx(lost)
    assert task.expected_loss({"logits": 2 * target}, {"logits": target}) == 0
    one = torch.tensor([[1.0], [-2.0]])
    sign = 100 * float(2 * one[0].sigmoid() - 1) / 2
    assert task.expected_loss({"logits": one * torch.tensor([[-1.0], [1.0]])}, {"logits": one}) == pytest.approx(sign)
    assert Values("logits").expected_loss({"logits": one}, {"logits": one}) is None


def test_the_loss_of_a_small_error_is_that_of_a_large_one_by_the_square() -> None:
    generator = torch.Generator().manual_seed(0)
    target, error = (torch.randn(4000, 5, generator=generator) for _ in range(2))
    distance = OutputDistance(Classes("logits"), {"logits": target})
    small, large = ({"logits": target + size * error} for size in (0.003, 0.3))
    measured = Classes("logits").expected_loss(large, {"logits": target})
    assert measured is not None
    assert distance.points(large) == pytest.approx(measured, rel=0.15)
    assert distance.points(small) / distance(small) == pytest.approx(measured / distance(large), rel=0.15)
    assert distance.points({}) == 0
    assert np.isnan(distance.points({"logits": target / 0}))
    assert np.isnan(OutputDistance(Values("logits"), {"logits": target}).points(large))


@pytest.fixture(scope="module")
def folder(attend: nn.Module, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials of a model for ONNX Runtime."""
    place = tmp_path_factory.mktemp("floating") / "attend"
    vitq.allocate(attend, images, within=100, candidates=(2,), target="onnxruntime", out=place, **OPTIONS)
    return place


def test_trials_know_floating_point_and_the_loss(folder: Path) -> None:
    found = read_sensitivities(folder)
    assert found.bits == (2, 32) and found.target == "onnxruntime" and found.points is not None
    assert (found.measures["output"][:, 1] == 0).all() and (found.points[:, 1] == 0).all()
    weights = np.array([found.costs.sites[site].is_weight for site in found.sites])
    elements = np.array([found.costs.sites[site].elements for site in found.sites])
    assert (found.bytes_SB[:, 1] == np.where(weights, 4 * elements, 0)).all()
    assert (found.bytes_SB[weights, 0] < found.bytes_SB[weights, 1] / 7 + 257).all()
    assert found.points.sum() > 0 and (found.points >= 0).all()


def test_within_a_bound_some_linears_stay_in_floating_point(folder: Path) -> None:
    found = read_sensitivities(folder)
    rate = found.points_by("output")
    worst = rate * found.problem({}).distance(found.problem({}).lowest)
    part = vitq.allocate(str(folder), within=worst / 3, progress=False)
    assert part.expected_loss is not None and part.expected_loss <= worst / 3 * (1 + 1e-9)
    floating = set(part.floating)
    assert floating and floating < set(part.bits)
    for one in part.problem.products:
        ends = {one.left, one.right} & set(part.bits)
        assert len(ends & floating) in (0, len(ends))
    assert part.table.bits_of(part.floating[0]) == 32 and part.label.startswith("mixed w")
    strict = vitq.allocate(str(folder), within=worst / 1000, progress=False)
    assert strict.costs[BIT_OPS] >= part.costs[BIT_OPS]


def test_a_target_takes_away_what_it_does_not_carry(attend: nn.Module, images: torch.Tensor) -> None:
    narrowed = vitq.allocate(attend, images, average_bits=8, candidates=(4, 8), target="openvino", **OPTIONS)
    weights = {bits for site, bits in narrowed.bits.items() if site.endswith("weight")}
    assert weights == {7} and set(narrowed.bits.values()) <= {7, 8}
    kept = vitq.allocate(attend, images, average_bits=8, candidates=(4, 8), target="openvino", cpu="vnni", **OPTIONS)
    assert set(kept.bits.values()) == {8}
    with pytest.raises(AllocationError, match="openvino does not carry 'qkv/weight' with 8 bits"):
        narrowed.sensitivities.problem({}, keep={"qkv/weight": 8})
    loose = vitq.allocate(attend, images, within=100, target="openvino", **OPTIONS)
    assert {bits for site, bits in loose.bits.items() if not site.endswith("weight")} == {8}


def test_a_site_that_a_target_cannot_carry_stays_in_floating_point(attend: nn.Module, images: torch.Tensor) -> None:
    options = {**OPTIONS, "target": "qnn", "overrides": {"insert.post_norm.format": "twin_sign"}}
    assert "twin_sign" in FORMATS
    with pytest.raises(AllocationError, match=r"has no bits on qnn: .*; add 32 to the candidates"):
        vitq.allocate(attend, images, average_bits=8, candidates=(4, 8), **options)
    found = vitq.allocate(attend, images, bit_ops=1e12, candidates=(4, 8, 32), **options)
    forced = {site for site, own in found.sensitivities.allowed.items() if own == (32,)}
    assert forced and forced <= set(found.floating)
    assert found.problem.highest[found.problem.place["qkv/weight"]] == found.problem.floating


def test_errors_about_the_bound_come_before_the_model(images: torch.Tensor) -> None:
    for options, text in (
        ({"solver": "evolutionary"}, "take program or greedy"),
        ({"by": "proxy"}, "take output"),
    ):
        with pytest.raises(AllocationError, match=text):
            vitq.allocate("nothing", images, within=0.3, progress=False, **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="within takes a share of the score"):
        vitq.allocate("nothing", images, within=0, progress=False)
    with pytest.raises(ArgumentError, match="candidates takes"):
        vitq.allocate("nothing", images, within=0.3, candidates=(8, 16), progress=False)


def test_a_score_that_no_trial_moved_says_nothing_of_a_bound(make_sensitivities: MakeSensitivities) -> None:
    found = made(make_sensitivities)
    assert found.points is not None
    for points, text in ((None, "know no score"), (0 * found.points, "no trial changed a class")):
        with pytest.raises(AllocationError, match=text):
            replace(found, points=points).problem({}, within=0.3)

"""Paired statistics and the verdict that follows from them."""

from math import comb

import pytest

from vitq.artifact.metrics import RunMetrics
from vitq.bench.saved import Bench, Row
from vitq.evidence import Pairs
from vitq.report.paired import bounded_loss, expected_loss, paired_loss
from vitq.report.verdict import Kind, verdict_of
from vitq.statistics import discordance


def pairs(both: int, floating: int, quantized: int, neither: int = 0, labelled: bool = True) -> Pairs:
    one = "1" * (both + floating) + "0" * (quantized + neither)
    two = "1" * both + "0" * floating + "1" * quantized + "0" * neither
    agree = "1" * both + "0" * (floating + quantized) + "1" * neither
    hits = {"floating": one, "quantized": two} if labelled else {}
    return Pairs(images=len(one), sha256="a", agree=agree, expected_loss=0.4, expected_deviation=5.0, **hits)


def metrics(found: Pairs, **others: object) -> RunMetrics:
    n = found.images
    own = {"images": n, "agreement": 100 * found.agree.count("1") / n}
    if found.floating:
        own |= {"fp_top1": 100 * found.floating.count("1") / n, "top1": 100 * found.quantized.count("1") / n}
    return RunMetrics.model_validate({**own, **others})


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 1), (9, 9), (12, 3)])
def test_mcnemar_counts_the_tails_of_a_fair_coin(first: int, second: int) -> None:
    total, least = first + second, min(first, second)
    tail = sum(comb(total, k) for k in range(least + 1)) / 2**total
    assert discordance(first, second) == pytest.approx(min(1.0, 2 * tail)) == discordance(second, first)


def test_a_paired_loss_has_its_points_inside_its_interval_and_is_antisymmetric() -> None:
    found = pairs(800, 30, 10, 160)
    loss = paired_loss(found.floating, found.quantized)
    back = paired_loss(found.quantized, found.floating)
    assert loss.points == pytest.approx(2.0) and loss.low < 2 < loss.high
    assert (back.points, back.low, back.high) == pytest.approx((-2.0, -loss.high, -loss.low))
    assert loss.p is not None and loss.p < 0.05 and not loss.within_noise


def test_pairing_is_sharper_than_what_accuracies_and_agreement_bound() -> None:
    found = pairs(900, 12, 4, 84)
    paired, bounded = paired_loss(found.floating, found.quantized), bounded_loss(0.8, 98.0, 1000)
    assert bounded.points == pytest.approx(paired.points)
    assert bounded.high - bounded.low > paired.high - paired.low


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (pairs(950, 5, 3, 42), Kind.ACCEPT, "within noise"),
        (pairs(9500, 50, 5, 445), Kind.ACCEPT, "more than noise"),
        (pairs(800, 80, 10, 110), Kind.REGRESSION, "7.0 points of top-1 lost"),
        (pairs(90, 4, 0, 6), Kind.REGRESSION, "1 point may be lost"),
        (pairs(95, 1, 0, 4), Kind.ACCEPT, "cannot rule out"),
        (pairs(100, 700, 5, 195), Kind.INFEASIBLE, "nothing usable is left"),
        (pairs(900, 3, 8, 89), Kind.ACCEPT, "0.5 points of top-1 gained"),
        (pairs(990, 10, 0, labelled=False), Kind.ACCEPT, "no labels"),
        (pairs(300, 700, 0, labelled=False), Kind.INFEASIBLE, "nothing usable is left"),
    ],
)
def test_the_verdict_follows_from_the_loss_and_its_noise(found: Pairs, kind: Kind, words: str) -> None:
    verdict = verdict_of(metrics(found), found, None)
    assert verdict.kind is kind and words in verdict.reason


def test_more_points_may_be_lost_where_that_is_said() -> None:
    found = pairs(800, 40, 10, 150)
    assert [verdict_of(metrics(found), found, None, within).kind for within in (1.0, 3.0)] == ["regression", "accept"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"images": 0}, Kind.INFEASIBLE),
        ({"images": 8, "warnings": [("not-finite", "all")]}, Kind.INFEASIBLE),
        ({"images": 8, "relative_error": 0.02, "cosine": 0.99}, Kind.ACCEPT),
        ({"images": 8, "relative_error": 0.3, "cosine": 0.9}, Kind.REGRESSION),
        ({"images": 8, "relative_error": 0.9, "cosine": 0.1}, Kind.INFEASIBLE),
        ({"images": 8, "agreement": 100.0}, Kind.ACCEPT),
        ({"images": 8}, Kind.REGRESSION),
    ],
)
def test_without_pairs_the_verdict_follows_from_what_was_measured(values: dict[str, object], kind: Kind) -> None:
    assert verdict_of(RunMetrics.model_validate(values), None, None).kind is kind


def test_what_was_gained_is_said_in_size_and_where_it_was_benched_in_speed() -> None:
    found = pairs(99, 0, 0, 1)
    own = metrics(found, size_bytes=6_000_000, fp_size_bytes=23_000_000)
    row = {"name": "w8a8", "runtime": "onnxruntime", "size_bytes": 1, "milliseconds": {1: 10.0}, "ratios": {1: 1.9}}
    floating = {**row, "name": "float32", "milliseconds": {1: 19.0}, "ratios": {1: 1.0}}
    rows = (Row.model_validate(row), Row.model_validate(floating))
    bench = Bench(name="w8a8", model="m", threads=2, rounds=20, processor="x", rows=rows)
    assert verdict_of(own, found, bench).gains == (
        "6 MB instead of 23 MB, 3.8 times smaller",
        "10.0 ms a batch of 1 in onnxruntime, 2 threads: 1.90 times the speed of float32",
    )
    assert "not measured" in verdict_of(own, found, None).gains[1]
    larger = metrics(found, size_bytes=12_000_000, fp_size_bytes=8_000_000)
    said = "12 MB instead of 8 MB, 1.5 times the original's size: it gained nothing"
    assert verdict_of(larger, found, None).gains[0] == said


def test_an_expected_loss_has_the_interval_of_a_mean() -> None:
    loss = expected_loss(0.5, 2.0, 400)
    assert loss.points == 0.5 and loss.p is None
    assert (loss.high - loss.low) / 2 == pytest.approx(1.96 * 2 / 20, rel=1e-3)
    assert not loss.within_noise and expected_loss(0.1, 2.0, 400).within_noise


def test_verdicts_are_three() -> None:
    assert [str(kind) for kind in Kind] == ["accept", "regression", "infeasible"]

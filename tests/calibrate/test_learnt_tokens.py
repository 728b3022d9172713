"""Learnt tokens: found by noise, and given ranges of their own where a recipe says so and they lose less."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.calibrate.assign import search_alone
from vitq.calibrate.learnt_tokens import keep_learnt_apart, learnt_tokens
from vitq.calibrate.member import Member
from vitq.calibrate.searches import WIDER
from vitq.graph import Graph, Role, Site, capture
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer
from vitq.run.run import Run

ROLES = (Role.NORM_INPUT, Role.ACTIVATION_INPUT, Role.RESIDUAL)
X_NCHW = torch.randn(12, 3, 24, 24, generator=torch.Generator().manual_seed(0))


class Learnt(nn.Module):
    """A class token, 36 tokens of the image and perhaps registers behind them; the class token is what is read."""

    def __init__(self, registers: int = 0, first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm, self.last = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        count = 36 + registers + first
        self.mix, self.fc, self.head = nn.Linear(count, count), nn.Linear(8, 8), nn.Linear(8, 5)
        self.first_TC = nn.Parameter(2 * torch.randn(int(first), 8))
        self.registers_TC = nn.Parameter(2 * torch.randn(registers, 8))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        learnt = [tokens.expand(len(x_BTC), -1, -1) for tokens in (self.first_TC, self.registers_TC)]
        x_BTC = torch.cat((learnt[0], x_BTC, learnt[1]), 1)
        x_BTC = x_BTC + self.mix(self.norm(x_BTC).transpose(1, 2)).transpose(1, 2)
        x_BTC = x_BTC + nn.functional.gelu(self.fc(x_BTC))
        logits_BK: torch.Tensor = self.head(self.last(x_BTC)[:, 0])
        return logits_BK


def places(graph: Graph, like: torch.Tensor) -> list[tuple[int, ...]]:
    return list(learnt_tokens(graph, like, torch.device("cpu")).values())


def test_they_are_what_noise_does_not_change_before_tokens_are_mixed() -> None:
    for like in (X_NCHW, torch.zeros_like(X_NCHW)):  # whatever the images are
        assert places(capture(Learnt(registers=2).eval(), X_NCHW[:2]), like) == [(0, 37, 38)]
    assert places(capture(Learnt(first=False).eval(), X_NCHW[:2]), X_NCHW) == []


FAMILIES: list[tuple[str, dict[str, Any], list[tuple[int, ...]]]] = [
    ("vit", {}, [(0,)]),
    ("vit", {"reg_tokens": 4}, [(0, 1, 2, 3, 4)]),
    ("swin", {}, []),
]


@pytest.mark.parametrize(("name", "options", "expected"), FAMILIES)
def test_class_and_register_tokens_of_real_families_are_found(
    tiny: Callable[..., nn.Module], name: str, options: dict[str, Any], expected: list[tuple[int, ...]]
) -> None:
    x_NCHW = torch.zeros(2, 3, 32, 32)
    assert places(capture(tiny(name, **options), x_NCHW), x_NCHW) == expected


def member(x_BTC: torch.Tensor, form: Format) -> Member:
    quantizer = make_quantizer(form, -1 if form.granularity == Granularity.CHANNEL else None)
    found = Member(Site("x", "x", Role.NORM_INPUT, ("y",)), x_BTC, quantizer)
    search_alone(found, "mse")
    return found


def loss(quantizer: Quantizer | None, x_BTC: torch.Tensor) -> float:
    assert quantizer is not None
    return float((quantizer(x_BTC) - x_BTC)[:, 0].square().sum())


@pytest.mark.parametrize("name", ["affine", "whole_factor", "power_of_two_factor"])
def test_an_unusual_token_has_a_range_of_its_own_that_holds_new_values(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    seen, new = (torch.randn(32, 60, 8, generator=generator) for _ in range(2))
    direction_C = torch.tensor([6.0, -6, 5, -5, 6, -6, 0, 0])
    for x_BTC in (seen, new):
        x_BTC[:, 0] = direction_C + 0.3 * x_BTC[:, 0]
    shared, own = (member(seen, Format(name, 4, Granularity.CHANNEL)) for _ in range(2))
    assert keep_learnt_apart(own, {60: (0,)}, "mse")
    assert loss(own.quantizer, new) < 0.5 * loss(shared.quantizer, new)
    assert own.quantizer is not None and own.quantizer.outliers is not None
    found = own.quantizer.outliers
    low_C, high_C = (end.flatten() for end in found.codec.range_of(found.format, found.arguments()))
    step_C = found.resolution(torch.zeros(1, 1, 8)).flatten()
    low, high = seen[:, 0].amin(0).clamp(max=0), seen[:, 0].amax(0).clamp(min=0)
    if name != "power_of_two_factor":  # which has one zero point for all channels
        assert bool((high_C + step_C >= high + WIDER * (high - low) * (high > 0)).all())
        assert bool((low_C - step_C <= low - WIDER * (high - low) * (low < 0)).all())


def test_a_token_like_the_others_stays_with_them_and_so_do_tokens_elsewhere() -> None:
    x_BTC = torch.rand(32, 60, 8, generator=torch.Generator().manual_seed(1)) - 0.5
    usual = member(x_BTC, Format("affine", 4, Granularity.CHANNEL))
    assert not keep_learnt_apart(replace(usual, x=x_BTC[:, :, :7]), {59: (0,)}, "mse")  # another number of tokens
    assert not keep_learnt_apart(replace(usual, x=x_BTC.reshape(32, 2, 30, 8)), {60: (0,)}, "mse")
    assert not keep_learnt_apart(usual, {60: (2, 3)}, "mse")
    assert usual.quantizer is not None and usual.quantizer.places_P is None
    massive = member(x_BTC, Format("affine", 4))
    assert massive.quantizer is not None
    massive.quantizer.keep_apart(torch.tensor([5]))
    search_alone(massive, "mse")
    assert not keep_learnt_apart(massive, {60: (0,)}, "mse") and massive.quantizer.places_P.tolist() == [5]


def apart(graph: Graph) -> dict[str, list[int]]:
    found = graph.quantizers.items()
    return {name: q.places_P.tolist() for name, q in found if isinstance(q, Quantizer) and q.places_P is not None}


@pytest.mark.parametrize(
    ("first", "images", "roles", "expected"),
    [
        (True, 12, ROLES, [0]),
        (True, 12, (), None),
        (False, 12, ROLES, None),
        (True, 4, ROLES, None),  # too few images to know a range from
    ],
)
def test_the_step_keeps_them_apart_at_sites_of_its_roles(
    first: bool, images: int, roles: tuple[Role, ...], expected: list[int] | None
) -> None:
    graph = capture(Learnt(first=first).eval(), X_NCHW[:2])
    run = Run(graph, graph.clone(), X_NCHW[:images], Bits(6, 6))
    Insert(scope="full").apply(run)
    Calibrate(weights="minmax", activations="mse", learnt_tokens=roles).apply(run)
    found = apart(run.student)
    assert bool(found) == (expected is not None) and all(own == expected for own in found.values())
    assert {run.student.sites[name].role for name in found} <= set(roles)


def test_integers_and_the_artifact_of_a_recipe_that_does_so_agree(tmp_path: Path) -> None:
    model = vitq.quantize(Learnt().eval(), X_NCHW, recipe="mptq-vit", bits="w6a6", scope="full", progress=False)
    again = vitq.load(model.save(tmp_path / "a"))
    assert torch.equal(again(X_NCHW), model(X_NCHW))
    assert apart(again.graph) == apart(model.graph) and apart(model.graph)
    integers = model.integer()
    counts = integers.operations.counts
    assert (counts["norms"], counts["activation functions"]) == (2, 1)
    expected = model(X_NCHW)
    error_B = (integers(X_NCHW) - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error_B.median()) < 1e-5, "single images may have a code that falls at a tie"

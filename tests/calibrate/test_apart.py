"""Class tokens get a range of their own in products where they reach further."""

from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.calibrate.apart import tokens_apart
from vitq.graph import Role, Site

ADDED = {40: (0,)}


def values(reach: float, places: int = 1) -> torch.Tensor:
    x_BTC = torch.rand(8, 40, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_BTC[:, :places, 2] = reach
    return x_BTC


def apart(role: Role, x: torch.Tensor, axis: int | None = None) -> tuple[int, ...]:
    found = tokens_apart(Site("a", "a", role, ("b",)), x, axis, ADDED)
    return () if found is None or not found.fixed else found.tokens


def test_what_a_product_reads_keeps_them_apart_where_they_reach_further() -> None:
    assert apart(Role.OTHER, values(1.2)) == () and apart(Role.POST_ACTIVATION, values(2.0)) == (0,)
    assert apart(Role.POST_NORM, values(2.0)) == (0,) and apart(Role.POST_NORM, values(2.0), -1) == ()
    assert apart(Role.ACTIVATION_INPUT, values(2.0)) == apart(Role.NORM_INPUT, values(2.0)) == ()  # read by no product


def test_other_numbers_of_tokens_and_maps_have_none() -> None:
    assert apart(Role.OTHER, values(2.0)[:, 1:]) == ()
    assert apart(Role.OTHER, values(2.0)[:, None]) == ()


def test_massive_tokens_come_first() -> None:
    x_BTC = values(2.0)
    x_BTC[:, 7, 3] = 50.0
    assert apart(Role.OTHER, x_BTC) == (7,)


class WithClassToken(nn.Module):
    """A class token that reaches twice as far as the 36 patches, of which the answer is made."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.own = nn.Parameter(4 * torch.randn(1, 1, 16).clamp(-1, 1))
        self.fc, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).mT
        x_BTC = torch.cat((self.own.expand(len(x_BTC), -1, -1), x_BTC), 1)
        x_BTC = x_BTC + self.fc(x_BTC) + x_BTC.mean(1, keepdim=True)
        logits_BK: torch.Tensor = self.head(self.norm(x_BTC)[:, 0])
        return logits_BK


@pytest.mark.parametrize("scope", ["paper", "full"])
def test_a_class_token_that_searches_would_clip_keeps_its_values(scope: str) -> None:
    x_NCHW = torch.randn(12, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = WithClassToken().eval()(x_NCHW)

    @torch.no_grad()
    def error(**own: Any) -> float:
        asked = {"recipe": "rtn", "bits": "w8a4", "scope": scope, "progress": False, "overrides": own}
        model = vitq.quantize(WithClassToken().eval(), x_NCHW, **asked)
        assert (model.metrics.outliers is None) == bool(own)
        assert not any(name == "outlier-tokens" for name, _ in model.metrics.warnings)
        return float((model(x_NCHW) - expected).norm() / expected.norm())

    assert error() < 0.8 * error(**{"calibrate.outlier_tokens": False})

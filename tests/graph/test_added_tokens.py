"""Class, register and query tokens are found where a model adds them, and nowhere else."""

from collections.abc import Callable

import pytest
import torch
from small_models import ZOO, zoo
from torch import nn

from vitq.graph import capture
from vitq.graph.queries.added_tokens import added_tokens

Make = Callable[["Tokens", torch.Tensor], torch.Tensor]


class Tokens(nn.Module):
    """16 tokens of patches, to which ``add`` puts others."""

    def __init__(self, add: Make) -> None:
        super().__init__()
        self.patch, self.head, self.add = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5), add
        self.own = nn.Parameter(torch.randn(1, 1, 8))
        self.more = nn.Parameter(torch.randn(1, 3, 8))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.add(self, self.patch(x_BCHW).flatten(2).mT)
        logits_BK: torch.Tensor = self.head(x_BTC.tanh()).mean(1)
        return logits_BK


def first(m: Tokens, x_BTC: torch.Tensor) -> torch.Tensor:
    return torch.cat((m.own.expand(len(x_BTC), -1, -1), x_BTC), 1)


def registers_behind_it(m: Tokens, x_BTC: torch.Tensor) -> torch.Tensor:
    x_BTC = first(m, x_BTC) * 2
    return torch.cat((x_BTC[:, :1], m.more.expand(len(x_BTC), -1, -1), x_BTC[:, 1:]), 1)


def both_sides(m: Tokens, x_BTC: torch.Tensor) -> torch.Tensor:
    return torch.cat((m.own.expand(len(x_BTC), -1, -1), x_BTC, m.more.expand(len(x_BTC), -1, -1)), -2)


def halves(m: Tokens, x_BTC: torch.Tensor) -> torch.Tensor:
    return torch.cat((x_BTC[:, 8:] + m.own, x_BTC[:, :8]), 1)


def channels(m: Tokens, x_BTC: torch.Tensor) -> torch.Tensor:
    return torch.cat((x_BTC[..., :7], m.own[..., :1].expand(len(x_BTC), 16, 1)), 2)


@pytest.mark.parametrize(
    ("add", "found"),
    [
        (first, {17: (0,)}),
        (registers_behind_it, {17: (0,), 20: (0, 1, 2, 3)}),
        (both_sides, {20: (0, 17, 18, 19)}),
        (halves, {}),
        (channels, {}),
    ],
)
def test_tokens_that_no_image_gives_are_found(add: Make, found: dict[int, tuple[int, ...]]) -> None:
    graph = capture(Tokens(add).eval(), torch.randn(2, 3, 16, 16))
    assert added_tokens(graph.module.graph) == found


@pytest.mark.parametrize(("model", "places"), [("deit", [(0, 1)]), ("swin", []), ("cait", [(0,)])])
def test_real_layouts(model: str, places: list[tuple[int, ...]]) -> None:
    graph = capture(zoo(model).float(), torch.randn(2, 3, ZOO[model][0], ZOO[model][0]))
    assert list(added_tokens(graph.module.graph).values()) == places

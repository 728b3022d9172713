"""Opened attention computes what the fused one does, for every kind of mask."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitq.errors import GraphError
from vitq.graph import Role, capture


class Attention(nn.Module):
    """Attention of an image's rows over themselves, x_BND with two heads."""

    def __init__(self, kind: str, scale: float | None = None) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.register_buffer("hidden", torch.ones(5, 5, dtype=torch.bool).tril(1))
        self.register_buffer("bias", torch.randn(1, 2, 5, 5))
        self.register_buffer("all", torch.ones(1, 1, 5, 5, dtype=torch.bool))

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        masks = {
            "boolean": self.hidden,
            "float": self.bias,
            "all": self.all.expand(x_BND.shape[0], -1, -1, -1),
            "image": (x_BND.mean(-1) > -2)[:, None, None, :],
        }
        y = F.scaled_dot_product_attention(
            q, k, v, masks.get(self.kind), is_causal=self.kind == "causal", scale=self.scale
        )
        return self.proj(y.transpose(1, 2).flatten(2))


KINDS = ("none", "causal", "boolean", "float", "all", "image")


class EveryKind(nn.Module):
    """Every kind of mask, and one with another scale, side by side: one capture instead of seven."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict(
            {**{f"mask {kind}": Attention(kind) for kind in KINDS}, "scaled": Attention("float", 3)}
        )

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return torch.stack([attention(x_BND) for attention in self.kinds.values()], 1)


def test_opened_attention_equals_the_fused_one() -> None:
    torch.manual_seed(0)
    model = EveryKind()
    graph = capture(model, torch.randn(2, 5, 8))
    for batch in (1, 4):
        x = torch.randn(batch, 5, 8)
        for name, got, expected in zip(model.kinds, graph(x).unbind(1), model(x).unbind(1), strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
    roles = [site.role for site in graph.sites.values()]
    assert all(roles.count(r) == len(model.kinds) for r in (Role.QUERY, Role.KEY, Role.PROBABILITIES, Role.VALUE))
    names = {str(n.target) for n in graph.module.graph.nodes}
    assert "aten.scaled_dot_product_attention.default" not in names


def test_a_mask_that_hides_nothing_is_left_out() -> None:
    graph = capture(Attention("all"), torch.randn(2, 5, 8))
    assert not any("where" in n.name or "expand" in n.name for n in graph.module.graph.nodes)


def test_torch_attention_layers_are_opened_too() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
            return self.encoder(x_BND)

    model = Encoder().eval()
    graph = capture(model, torch.randn(2, 5, 8))
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-6)
    assert sum(site.is_weight for site in graph.sites.values()) == 4
    assert sum(site.role is Role.PROBABILITIES for site in graph.sites.values()) == 1


def test_grouped_queries_are_refused_by_name() -> None:
    class Grouped(nn.Module):
        def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
            q = x_BND[:, None].expand(-1, 4, -1, -1)
            k = x_BND[:, None].expand(-1, 2, -1, -1)
            return F.scaled_dot_product_attention(q, k, k, enable_gqa=True).flatten(1)

    with pytest.raises(GraphError, match="enable_gqa"):
        capture(Grouped(), torch.randn(2, 3, 4))

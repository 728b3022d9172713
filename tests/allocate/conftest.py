"""A small attention model, and sensitivities that were never measured."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from vitq.allocate import Costs, Product, Sensitivities, SiteCost

MakeSensitivities = Callable[..., Sensitivities]


class Attend(nn.Module):
    """Patches, one block of attention and a linear, a head: 4 tokens of width 8 from images 3x8x8, 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj, self.fc, self.head = (nn.Linear(8, width) for width in (24, 8, 8, 5))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(x_BTC)).chunk(3, -1)
        x_BTC = x_BTC + self.proj((q @ k.transpose(-2, -1)).softmax(-1) @ v)
        x_BTC = x_BTC + self.fc(self.norm2(x_BTC))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return 8 * logits_BK


@pytest.fixture(scope="session")
def attend() -> nn.Module:
    torch.manual_seed(0)
    return Attend()


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def make_sensitivities() -> MakeSensitivities:
    """Return a function that makes sensitivities of layers, each a weight and its input, with random distances."""

    def make(layers: int = 3, bits: tuple[int, ...] = (2, 4, 8), seed: int = 0) -> Sensitivities:
        rng = np.random.default_rng(seed)
        sites, products, blocks = [], [], []
        for layer in range(layers):
            weights, elements = (int(number) for number in rng.integers(40, 200, 2))
            names = [f"blocks.{layer // 2}.fc{layer % 2}/{end}" for end in ("input", "weight")]
            sites += [
                SiteCost(names[0], "other", False, elements, weights),
                SiteCost(names[1], "weight", True, weights, weights),
            ]
            products.append(Product(f"linear_{layer}", *names, weights))
            blocks += 2 * [f"blocks.{layer // 2}"]
        costs = Costs({site.name: site for site in sites}, tuple(products))
        scale_S1 = rng.lognormal(0, 1.5, (len(sites), 1))
        distance_SB = scale_S1 * np.array([4.0**-b for b in bits]) * rng.uniform(0.7, 1.3, (len(sites), len(bits)))
        bytes_SB = np.array([[-(-s.elements * b // 8) if s.is_weight else 8 for b in bits] for s in sites])
        return Sensitivities(
            {"bits": "w4a4", "source": {"name": "made up"}},
            bits,
            tuple(costs.sites),
            costs,
            {"output": distance_SB, "proxy": 2 * distance_SB},
            rng.normal(size=(len(sites), len(bits), 6)),
            bytes_SB.astype(np.float64),
            {},
            100,
            tuple(blocks),
        )

    return make

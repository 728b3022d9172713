"""Batch norms go into the weights before them, and stay where those serve another operation."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vitq.graph import capture
from vitq.graph.functional import NORM
from vitq.graph.ops import is_op


class Chain(nn.Module):
    """Images through a convolution of eight channels, then what is given, then a head."""

    def __init__(self, *parts: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem, self.parts, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(*parts), nn.Linear(channels, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y = self.parts(torch.relu(self.stem(x_BCHW)))
        logits_BK: torch.Tensor = self.head(y.flatten(2).mean(-1) if y.ndim > 2 else y)
        return logits_BK


class Rows(nn.Module):
    """A linear whose rows, of all images and tokens, are normed together, as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BTC = self.linear(x_BCHW.flatten(2).transpose(1, 2))
        y_BTC = self.norm(y_BTC.flatten(0, 1)).reshape_as(y_BTC)
        return y_BTC.transpose(1, 2)


class Beside(nn.Module):
    """A convolution whose result is read beside its norm, or which runs twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), twice

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = self.conv(x_BCHW)
        return self.norm(y_BCHW) + (self.conv(torch.relu(x_BCHW - 1)) if self.twice else y_BCHW)


def learnt(model: nn.Module) -> nn.Module:
    """Give every batch norm the numbers that a trained one might have, some channels switched off or turned round."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.2, 3, generator=generator)
            if norm.affine:
                with torch.no_grad():
                    norm.weight.copy_(torch.tensor([1.0, -1, 0.3, 0, 2, 1, 1, -0.5])[: len(norm.weight)])
                    norm.bias.normal_(0, 0.3, generator=generator)
    return model.eval()


FOLDED: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: Chain(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
    "with bias": lambda: Chain(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
    "without scale": lambda: Chain(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False)),
    "depthwise": lambda: Chain(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8)),
    "transposed": lambda: Chain(nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6), channels=6),
    "transposed, grouped": lambda: Chain(nn.ConvTranspose2d(8, 6, 2, 2, groups=2), nn.BatchNorm2d(6), channels=6),
    "one-dimensional": lambda: Chain(nn.Flatten(2), nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8)),
    "rows of a linear": lambda: Chain(Rows()),
    "a vector": lambda: Chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 8), nn.BatchNorm1d(8)),
}
KEPT: dict[str, Callable[[], nn.Module]] = {
    "another reader": lambda: Chain(Beside(False)),
    "run twice": lambda: Chain(Beside(True)),
    "behind an activation": lambda: Chain(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)),
    "behind a sum of places": lambda: Chain(nn.Conv2d(8, 8, 1), nn.AvgPool2d(2), nn.BatchNorm2d(8)),
}


@torch.no_grad()
@pytest.mark.parametrize(("make", "left"), [(m, 0) for m in FOLDED.values()] + [(m, 1) for m in KEPT.values()],
                         ids=[*FOLDED, *KEPT])  # fmt: skip
def test_a_norm_goes_into_weights_of_its_own_and_the_function_stays(make: Callable[[], nn.Module], left: int) -> None:
    torch.manual_seed(0)
    model, x_BCHW = learnt(make()), torch.randn(3, 3, 9, 9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = capture(model, x_BCHW)
    assert sum(is_op(node, {NORM}) for node in graph.module.graph.nodes) == left
    torch.testing.assert_close(graph(x_BCHW), model(x_BCHW), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    graph.module.double()
    torch.testing.assert_close(graph(x_BCHW.double()), model.double()(x_BCHW.double()), rtol=1e-6, atol=1e-6)


def test_tied_weights_keep_their_norm() -> None:
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    graph = capture(learnt(Chain(first, nn.ReLU(), second, nn.BatchNorm2d(8))), torch.randn(2, 3, 9, 9))
    assert any(is_op(node, {NORM}) for node in graph.module.graph.nodes)

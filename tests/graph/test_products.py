"""Products and activation functions that are written out are found for what they are."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitq.graph import Graph, Role, capture
from vitq.graph.ops import LINEAR, MATMUL, is_op

SIZES = {"b": 3, "h": 2, "q": 4, "k": 5, "d": 6, "e": 7, "c": 8, "n": 9, "w": 2, "m": 4}


class Einsum(nn.Module):
    """The input with a stored tensor, or with another one made of the input."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation
        self.left, self.right = equation.partition("->")[0].replace("...", "bc").split(",")
        self.sizes = [SIZES[letter] for letter in self.right]
        if "b" not in self.right:
            self.w = nn.Parameter(torch.randn(self.sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "b" not in self.right:
            return torch.einsum(self.equation, x, self.w)
        other = x.flatten(1).mean(1).view(-1, *[1] * (len(self.right) - 1)).expand(-1, *self.sizes[1:])
        return torch.einsum(self.equation, x, other.sin())


class Functional(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.other, self.second = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.function(self.first(x) + self.other(x)))
        return y


class Beside(nn.Module):
    """Modules that read the same input."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


EQUATIONS = (
    "bcn,cd->bdn",
    "bqd,bkd->bqk",
    "bhqd,bhkd->bhqk",
    "bcqw,cd->bdqw",
    "bqhd,hde->bqhe",
    "bhqd,hde->bqe",
    "...d,de->...e",
    "bnd,d->bn",
    "bnd,bnd->bn",
    "bnd,md->bn",
    "bqd,bkd",
)


class Equations(nn.Module):
    """Every equation on the first numbers of an image: one capture instead of eleven."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(map(Einsum, EQUATIONS))

    def forward(self, x_BN: torch.Tensor) -> list[torch.Tensor]:
        sizes = [[SIZES[letter] for letter in part.left[1:]] for part in self.parts]
        seen = [x_BN[:, : math.prod(size)].reshape(-1, *size) for size in sizes]
        return [part(x_BCN) for part, x_BCN in zip(self.parts, seen, strict=True)]


def test_an_einsum_of_two_tensors_becomes_a_matmul_with_sites() -> None:
    torch.manual_seed(0)
    model = Equations()
    graph = capture(model, torch.randn(2, 72))
    x_BN = torch.randn(5, 72)
    for equation, got, expected in zip(EQUATIONS, graph(x_BN).values(), model(x_BN), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=lambda text, e=equation: f"{e}: {text}")
    assert sum(is_op(node, LINEAR | MATMUL) for node in graph.module.graph.nodes) == len(EQUATIONS)
    assert len([site for site in graph.sites.values() if site.of_product]) == 2 * len(EQUATIONS)
    assert not any("einsum" in str(n.target) for n in graph.module.graph.nodes)


def test_an_einsum_without_contraction_stays() -> None:
    graph = capture(Einsum("bnd,nd->bnd"), torch.randn(2, 9, 6))
    assert not graph.sites and any("einsum" in str(n.target) for n in graph.module.graph.nodes)


def test_baddbmm_and_addmm_become_matmul_and_sum() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.baddbmm(x, x, x, beta=0.5, alpha=2.0)
            z = torch.baddbmm(x * float("inf"), y, x, beta=0)
            return torch.addmm(self.b, z.flatten(0, 1), self.w).view(-1, 4, 3).mean(1)

    torch.manual_seed(0)
    model, x = Added(), torch.randn(3, 4, 4)
    graph = capture(model, x)
    torch.testing.assert_close(graph(x), model(x))
    roles = [site.role for site in graph.sites.values() if site.of_product]
    assert roles.count(Role.WEIGHT) == 1 and len(roles) == 4


@pytest.mark.parametrize(
    ("dims", "shape"), [(1, (6, 7)), (([2], [1]), (7, 6)), (([-1, 1], [0, 2]), (6, 3, 5)), (([1], [0]), (5, 2, 2))]
)
def test_a_tensordot_becomes_a_matmul_with_sites(dims: Any, shape: tuple[int, ...]) -> None:
    class Dotted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(shape))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensordot(x, self.w, dims=dims)

    torch.manual_seed(0)
    model, x = Dotted(), torch.randn(3, 5, 6)
    graph = capture(model, x)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)
    assert [site.role for site in graph.sites.values()] == [Role.IMAGE, Role.WEIGHT]


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "GELU by erf": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "GELU by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * torch.pow(x, 3)))),
    "GELU by tanh, factored": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.79788 * (1 + 0.044715 * x * x))),
    "SiLU": lambda x: x * torch.sigmoid(x),
    "QuickGELU": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": F.mish,
    "mish written out": lambda x: x * torch.tanh(F.softplus(x)),
    "leaky ReLU": F.leaky_relu,
    "ReLU squared": lambda x: F.relu(x) ** 2,
    "ReLU squared by square": lambda x: torch.square(F.relu(x)),
    "ReLU times ReLU": lambda x: F.relu(x) * F.relu(x),
    "hard swish": F.hardswish,
    "hard swish by ReLU6": lambda x: x * F.relu6(x + 3) / 6,
    "hard swish by clipping": lambda x: x * F.hardtanh(x + 3, 0.0, 6.0) / 6.0,
}
OTHERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a straight line": lambda x: x * 2 + 1,
    "a square": lambda x: x * x,
    "a gated product of two": lambda x: x.roll(1, -1) * torch.sigmoid(x.flip(-1)),
    "a residual sum": lambda x: x + F.layer_norm(x, (8,)),
    "tanh alone": torch.tanh,
}


FUNCTIONS = ACTIVATIONS | OTHERS


@pytest.fixture(scope="module")
def functions() -> Graph:
    """Every function of ``FUNCTIONS`` between linears of its own, captured together."""
    return capture(Beside(map(Functional, FUNCTIONS.values())), torch.randn(2, 5, 6))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_functions_are_told_from_other_arithmetic(functions: Graph, name: str) -> None:
    site = functions.sites[f"parts.{list(FUNCTIONS).index(name)}.second/input"]
    assert site.role is (Role.POST_ACTIVATION if name in ACTIVATIONS else Role.OTHER)

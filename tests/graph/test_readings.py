"""Sites that no product reads: inputs of norms, softmax and activation functions, operands of residual sums."""

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch
from small_models import ZOO, zoo
from torch import nn
from torch.nn import functional

from vitq.graph import Graph, Role, capture

X = torch.zeros(2, 6, 8)


class Between(nn.Module):
    """A function between two linears."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.second = nn.Linear(8, 8), function, nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.function(self.first(x)))
        return y


def between(function: Callable[[torch.Tensor], torch.Tensor]) -> Graph:
    return capture(Between(function), X)


def besides(graph: Graph) -> dict[str, Role]:
    return {name: site.role for name, site in graph.sites.items() if not site.of_product}


def rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


NORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "layer": lambda x: functional.layer_norm(x, (8,)),
    "rms": lambda x: functional.rms_norm(x, (8,)),
    "group": lambda x: functional.group_norm(x, 2),
    "written rms": rms,
    "written layer": layer,
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu by erf": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "gelu by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * x.pow(3)))),
    "squared relu": lambda x: torch.relu(x).square(),
}


class Chain(nn.Module):
    """Functions one after the other, each between two linears."""

    def __init__(self, functions: Iterable[Callable[[torch.Tensor], torch.Tensor]]) -> None:
        super().__init__()
        self.functions = list(functions)
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(len(self.functions) + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linears[0](x)
        for function, linear in zip(self.functions, self.linears[1:], strict=True):
            x = linear(function(x))
        return x


@pytest.fixture(scope="module")
def chain() -> Graph:
    """Every norm and activation function, captured together."""
    return capture(Chain((NORMS | ACTIVATIONS).values()), X)


@pytest.mark.parametrize("name", NORMS | ACTIVATIONS)
def test_a_function_reads_one_site_however_it_is_written(chain: Graph, name: str) -> None:
    linears = chain.module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    linear = linears[list(NORMS | ACTIVATIONS).index(name)]
    (site,) = [site for site in chain.sites.values() if not site.of_product and site.node == linear.name]
    assert site.role is (Role.NORM_INPUT if name in NORMS else Role.ACTIVATION_INPUT)
    assert len(besides(chain)) == len(linears) - 1
    if name in ACTIVATIONS:
        assert set(site.consumers) == {user.name for user in linear.users}


def test_a_softmax_is_read_before_its_mask() -> None:
    mask = torch.zeros(8).masked_fill(torch.arange(8) > 5, -100.0)
    site = next(s for s in between(lambda x: (x + mask).softmax(-1)).sites.values() if not s.of_product)
    assert site.role is Role.SOFTMAX_INPUT and site.node == "linear" and site.consumers != ("softmax",)


def test_rotary_embeddings_and_scores_are_no_residual_sums() -> None:
    def rotary(x: torch.Tensor) -> torch.Tensor:
        cos, sin = torch.arange(8.0).cos(), torch.arange(8.0).sin()
        return x * cos + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin

    def interleaved(x: torch.Tensor) -> torch.Tensor:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * torch.arange(8.0).cos() + turned * torch.arange(8.0).sin()

    assert not besides(between(rotary)) and not besides(between(interleaved))
    graph = between(lambda x: (x @ x.mT + (x.mean(-1, keepdim=True) * 3).mT).softmax(-1) @ x)
    assert set(besides(graph).values()) == {Role.SOFTMAX_INPUT}


class PostNorm(nn.Module):
    """Its norm's output is read by a linear and by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x * 2)
        y: torch.Tensor = self.head(x + functional.gelu(self.fc(x)))
        return y


def test_a_tensor_that_a_product_reads_keeps_its_name_and_role() -> None:
    sites = capture(PostNorm(), X).sites
    assert sites["fc/input"].role is Role.POST_NORM and sites["fc/input"].consumers == ("linear",)
    assert [role for _, role in sites["fc/input"].others] == [Role.RESIDUAL]
    assert sites["fc/input"].readers({Role.POST_NORM}) == ("linear",)


FAMILIES = {
    "vit": {Role.NORM_INPUT: 5, Role.SOFTMAX_INPUT: 2, Role.ACTIVATION_INPUT: 2, Role.RESIDUAL: 4},
    "swin": {Role.NORM_INPUT: 9, Role.SOFTMAX_INPUT: 3, Role.ACTIVATION_INPUT: 3, Role.RESIDUAL: 6},
    "levit": {Role.SOFTMAX_INPUT: 2, Role.ACTIVATION_INPUT: 7, Role.RESIDUAL: 5},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_sites_and_each_feeds_its_readers(family: str) -> None:
    graph = capture(zoo(family), torch.zeros(2, 3, ZOO[family][0], ZOO[family][0]))
    assert Counter(besides(graph).values()) == FAMILIES[family]
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for site in graph.sites.values():
        assert all(nodes[reader] in nodes[site.node].users for reader in site.readers(set(Role)))

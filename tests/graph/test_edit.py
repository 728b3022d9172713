"""Quantizers in a graph: where they sit, who sees them, and what a clone shares."""

import pytest
import torch
from torch import nn

from vitq.errors import GraphError
from vitq.graph import Graph, Role, capture
from vitq.graph.edit import quantizer_target


class SharedInput(nn.Module):
    """Query, key and value read one tensor, which also goes round them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x_BN4: torch.Tensor) -> torch.Tensor:
        y = x_BN4.tanh()
        attention = (self.q(y) @ self.k(y).transpose(1, 2)).softmax(-1)
        return y + attention @ self.v(y)


@pytest.fixture(scope="module")
def captured() -> Graph:
    torch.manual_seed(0)
    return capture(SharedInput(), torch.randn(2, 3, 4))


@pytest.fixture
def graph(captured: Graph) -> Graph:
    return captured.clone()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


def test_a_tensor_with_three_consumers_is_one_site(graph: Graph) -> None:
    site = graph.sites["q/input"]
    assert len(site.consumers) == 3
    assert "k/input" not in graph.sites and "v/input" not in graph.sites
    assert [n for n in graph.sites if n.endswith("/weight")] == ["q/weight", "k/weight", "v/weight"]
    roles = [s.role for s in graph.sites.values()]
    assert all(roles.count(r) == 1 for r in (Role.QUERY, Role.KEY, Role.PROBABILITIES, Role.VALUE))


def test_only_the_consumers_see_the_quantized_tensor(graph: Graph, x: torch.Tensor, rounding: type[nn.Module]) -> None:
    model = SharedInput()
    model.load_state_dict({k: v for k, v in graph.module.state_dict().items()})
    graph.insert({"q/input": rounding()})
    y = x.tanh()
    r = rounding()(y)
    expected = y + (model.q(r) @ model.k(r).transpose(1, 2)).softmax(-1) @ model.v(r)
    assert not torch.equal(r, y)
    torch.testing.assert_close(graph(x), expected)
    assert graph.module.get_submodule(quantizer_target("q/input")) is graph.quantizers["q/input"]


def test_remove_undoes_insert(graph: Graph, x: torch.Tensor, rounding: type[nn.Module]) -> None:
    before = graph(x)
    names = set(graph.module.state_dict())
    for _ in range(2):
        graph.insert({name: rounding() for name in graph.sites})
        assert not torch.equal(graph(x), before)
        for name in list(graph.sites):
            graph.remove(name)
        assert torch.equal(graph(x), before)
        assert graph.quantizers == {} and set(graph.module.state_dict()) == names


def test_wrong_sites_are_refused(graph: Graph, x: torch.Tensor, rounding: type[nn.Module]) -> None:
    before = graph(x)
    with pytest.raises(GraphError, match=r"no site 'q/wight'.*did you mean 'q/weight'"):
        graph.insert({"k/weight": rounding(), "q/wight": rounding()})
    assert torch.equal(graph(x), before) and graph.quantizers == {}
    with pytest.raises(GraphError, match="not quantized"):
        graph.remove("q/weight")
    graph.insert({"q/weight": rounding()})
    with pytest.raises(GraphError, match="already quantized"):
        graph.insert({"q/weight": rounding()})
    with pytest.raises(GraphError, match="reads no parameter"):
        graph.parameter("tanh")


def test_two_sites_cannot_own_one_quantizer(rounding: type[nn.Module]) -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_b = nn.Linear(4, 4)
            self.a = nn.Module()
            self.a.b = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a.b(self.a_b(x))

    graph = capture(Clash(), torch.randn(2, 4))
    with pytest.raises(GraphError, match="already owns"):
        graph.insert({"a_b/weight": rounding(), "a.b/weight": rounding()})


def test_quantizing_does_not_move_cuts_spans_or_sites(graph: Graph, rounding: type[nn.Module]) -> None:
    fresh = graph.clone()
    fresh.slicing = Graph(fresh.module).slicing
    graph.insert({name: rounding() for name in graph.sites})
    again = Graph(graph.module)
    for other in (graph, again):
        assert other.cuts == fresh.cuts and other.feature == fresh.feature and other.sites == fresh.sites
        for granularity in ("layer", "unit", "network"):
            assert other.spans(granularity) == fresh.spans(granularity)
    assert again.quantizers == graph.quantizers


def test_segments_carry_the_quantizers_or_leave_them_out(
    graph: Graph, x: torch.Tensor, rounding: type[nn.Module]
) -> None:
    plain = graph(x)
    graph.insert({name: rounding() for name in graph.sites})
    start, end = graph.cuts[0], graph.cuts[-1]
    assert torch.equal(graph.segment(start, end)(x), graph(x))
    assert torch.equal(graph.segment(start, end, floating=True)(x), plain)
    layer = graph.spans("layer")[0]
    segment = graph.segment(layer.start, layer.end)
    assert segment.get_submodule(quantizer_target("q/input")) is graph.quantizers["q/input"]
    assert segment.get_parameter("q.weight") is graph.module.get_parameter("q.weight")


def test_a_clone_shares_nothing(graph: Graph, x: torch.Tensor, rounding: type[nn.Module]) -> None:
    graph.insert({"q/weight": rounding(), "q/input": rounding()})
    before = graph(x)
    twin = graph.clone()
    assert torch.equal(twin(x), before)
    assert twin.quantizers.keys() == graph.quantizers.keys()
    theirs = {t.data_ptr() for t in graph.module.state_dict().values()}
    assert not theirs & {t.data_ptr() for t in twin.module.state_dict().values()}
    with torch.no_grad():
        for tensor in twin.module.state_dict().values():
            tensor.fill_(3.0)
    twin.remove("q/input")
    twin.insert({"k/weight": rounding()})
    assert torch.equal(graph(x), before)
    assert list(graph.quantizers) == ["q/weight", "q/input"]
    for name, quantizer in twin.quantizers.items():
        assert twin.module.get_submodule(quantizer_target(name)) is quantizer


def test_parameters_are_found_by_node(graph: Graph) -> None:
    path, tensor = graph.parameter(graph.sites["k/weight"].node)
    assert path == "k.weight" and tensor is graph.module.get_parameter("k.weight")

"""Changes of a graph: calls, constants and quantizers, who sees them, and what a clone shares."""

import pytest
import torch
from torch import fx, nn

from vitq.errors import GraphError
from vitq.graph import Graph, Role, capture
from vitq.graph.edit import (
    delete_unused_tensors,
    finish,
    insert_call,
    insert_constant,
    node_named,
    quantizer_target,
    replace,
    replace_tensor,
    set_attribute,
)
from vitq.graph.ops import aten, module_path, value
from vitq.graph.parameters import parameter, parameter_node, readers_of, require_own


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
        first, *others = graph.sites
        graph.remove(first)
        graph.remove(*others)
        assert torch.equal(graph(x), before)
        assert graph.quantizers == {} and set(graph.module.state_dict()) == names


def test_several_sites_are_removed_in_one_compilation_or_not_at_all(
    graph: Graph, x: torch.Tensor, rounding: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.insert({name: rounding() for name in graph.sites})
    before, compiled = graph(x), list[fx.GraphModule]()
    recompile = fx.GraphModule.recompile
    monkeypatch.setattr(fx.GraphModule, "recompile", lambda self: (compiled.append(self), recompile(self))[1])
    with pytest.raises(GraphError, match="not quantized"):
        graph.remove(*graph.sites, "nowhere")
    assert torch.equal(graph(x), before) and not compiled
    graph.remove(*graph.sites)
    assert compiled == [graph.module]


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


def test_an_inserted_call_has_shape_and_modules_and_can_be_cut_around(graph: Graph, x: torch.Tensor) -> None:
    before, linear = graph(x), node_named(graph.module, "linear")
    source = linear.args[0]
    assert source is node_named(graph.module, "tanh")
    factor = insert_constant(graph.module, "factor", torch.full((4,), 2.0), before=linear)
    product = insert_call(graph.module, aten.mul.Tensor, (source, factor), before=linear)
    linear.replace_input_with(source, product)
    finish(graph.module)
    assert value(product).shape == value(source).shape and value(factor).shape == (4,)
    assert module_path(product) == module_path(linear) == "q"
    with torch.no_grad():
        graph.module.get_parameter("q.weight").mul_(0.5)
    torch.testing.assert_close(graph(x), before)
    torch.testing.assert_close(graph.segment("tanh", product.name)(x), 2 * x)
    graph.refresh()
    assert graph.sites["q/input"].node == product.name


def test_two_constants_of_one_name_are_two(graph: Graph) -> None:
    first = next(iter(graph.module.graph.nodes))
    names = [insert_constant(graph.module, "c", torch.ones(n), before=first).target for n in (1, 2)]
    assert names == ["c", "c_1"]
    assert [len(graph.module.get_buffer(str(name))) for name in names] == [1, 2]


def test_a_replaced_node_leaves_its_name_and_metadata(graph: Graph, x: torch.Tensor) -> None:
    old = node_named(graph.module, "tanh")
    new = insert_call(graph.module, aten.sigmoid.default, (old.args[0],), before=old)
    replace(graph.module, old, new)
    finish(graph.module)
    assert node_named(graph.module, "tanh") is new and value(new) is not None
    assert torch.equal(graph.segment(graph.cuts[0], "tanh")(x), x.sigmoid())


def test_an_unknown_node_is_an_error_that_names_the_nearest(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"no node 'tahn'.*did you mean 'tanh'"):
        node_named(graph.module, "tahn")


def test_tensors_are_overwritten_in_place_or_replaced(graph: Graph) -> None:
    held = graph.module.get_parameter("q.bias")
    set_attribute(graph.module, "q.bias", torch.full((4,), 3.0))
    assert graph.module.get_parameter("q.bias") is held and bool((held == 3).all())
    replace_tensor(graph.module, "q.bias", torch.zeros(4))
    assert bool((held == 3).all()) and not graph.module.get_parameter("q.bias").any()
    assert isinstance(graph.module.get_parameter("q.bias"), nn.Parameter)
    graph.module.register_buffer("idle", torch.ones(1))
    delete_unused_tensors(graph.module)
    assert "idle" not in graph.module.state_dict() and "q.bias" in graph.module.state_dict()


def test_a_quantizer_is_replaced_where_it_sits(graph: Graph, x: torch.Tensor, rounding: type[nn.Module]) -> None:
    graph.insert({"q/input": rounding()})
    finer = rounding(2.0**-20)
    with pytest.raises(GraphError, match="'k/weight' is not quantized"):
        graph.replace("k/weight", finer)
    before, nodes = graph(x), [node.name for node in graph.module.graph.nodes]
    graph.replace("q/input", finer)
    assert graph.quantizers["q/input"] is graph.module.get_submodule(quantizer_target("q/input")) is finer
    assert [node.name for node in graph.module.graph.nodes] == nodes and not torch.equal(graph(x), before)


@torch.no_grad()
def test_parameters_are_read_behind_their_quantizers_and_made_where_missing(
    graph: Graph, x: torch.Tensor, rounding: type[nn.Module]
) -> None:
    graph.insert({"q/weight": rounding()})
    linear = node_named(graph.module, "linear")
    weight = parameter_node(linear, 1)
    assert weight is not None and weight.target == "q.weight"
    assert parameter(graph, linear, 1, torch.ones(1)) is graph.module.get_parameter("q.weight")
    assert readers_of(graph, "q.weight") == [linear]
    before = graph(x)
    linear.args = linear.args[:2]
    finish(graph.module)
    bias = parameter(graph, linear, 2, torch.zeros(4))
    bias.copy_(graph.module.get_parameter("q.bias"))
    assert torch.equal(graph(x), before)
    other = node_named(graph.module, "linear_1")
    other.args = (other.args[0], weight, other.args[2])
    with pytest.raises(GraphError, match=r"'q\.weight' is shared with another operation"):
        require_own(graph, linear, 1)

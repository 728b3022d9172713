"""What the graph promises, on every family of vision transformers, with small random models."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from small_models import ZOO, zoo
from torch import fx, nn

import vitq.graph.graph
from vitq.graph import Graph, Role, capture
from vitq.graph.ops import CONV, LINEAR, SOFTMAX, attribute, is_op
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json

PLAIN_ROUND_TRIPS = ("vit", "levit")
GRANULARITIES = ("unit", "block", "2", "stage", "network")


@dataclass(frozen=True)
class Case:
    """One model, its graph, and whether the graph was bit-exact with eager before attention was opened."""

    name: str
    model: nn.Module
    graph: Graph
    exact_before_opening: bool
    size: int
    segments: dict[tuple[str, str], fx.GraphModule] = field(default_factory=dict)

    def segment(self, start: str, end: str) -> fx.GraphModule:
        if (start, end) not in self.segments:
            self.segments[start, end] = self.graph.segment(start, end)
        return self.segments[start, end]

    def images(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name: str = request.param
    size, model = ZOO[name][0], zoo(name)
    x = torch.randn(2, 3, size, size)
    module = vitq.graph.graph.capture_module(model, x)
    with torch.no_grad():
        exact = torch.equal(module(x), model(x))
    yield Case(name, model, capture(model, x), exact, size)


@torch.no_grad()
def test_graph_equals_eager_at_every_batch_size(case: Case) -> None:
    assert case.exact_before_opening
    for batch in (1, 2, 5):
        x = case.images(batch)
        expected = case.model(x)
        assert expected.std() > 1e-4
        torch.testing.assert_close(
            case.graph(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()), check_stride=False
        )


@torch.no_grad()
def test_chain_of_all_cuts_equals_the_whole(case: Case) -> None:
    x = case.images(3)
    whole = case.graph(x)
    for start, end in pairwise(case.graph.cuts):
        x = case.segment(start, end)(x)
    assert torch.equal(x, whole)


@torch.no_grad()
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_chain_of_spans_equals_the_whole(case: Case, granularity: str) -> None:
    spans = case.graph.spans(granularity)
    assert (spans[0].start, spans[-1].end) == (case.graph.cuts[0], case.graph.cuts[-1])
    assert all(a.end == b.start for a, b in pairwise(spans))
    for batch in (1, 5):
        y = case.images(batch)
        for span in spans:
            y = case.segment(span.start, span.end)(y)
        assert torch.equal(y, case.graph(case.images(batch)))


@pytest.mark.parametrize("granularity", ("layer", *GRANULARITIES))
def test_spans_hold_every_weighted_operation_once(case: Case, granularity: str) -> None:
    spans = case.graph.spans(granularity)
    held = Counter(name for span in spans for name in _weighted(case.segment(span.start, span.end).graph))
    assert held == Counter(list(_weighted(case.graph.module.graph)))
    assert len({span.name for span in spans}) == len(spans)
    if granularity == "layer":
        assert all(span.cut in case.graph.cuts for span in spans)
    else:
        assert all(_weighted(case.segment(span.start, span.end).graph) for span in spans)


def test_granularities_nest(case: Case) -> None:
    ends = [{span.end for span in case.graph.spans(name)} for name in GRANULARITIES]
    assert all(coarse <= fine for fine, coarse in pairwise(ends))
    assert len(ends[0]) > len(ends[3]) > len(ends[4]) == 1


def test_stage_spans_stay_inside_a_stage(case: Case) -> None:
    owner = _weighted(case.graph.module.graph)
    blocks = {path for _, _, path in case.graph.slicing._blocks}
    assert blocks
    for span in case.graph.spans("stage"):
        paths = [owner[name] for name in _weighted(case.segment(span.start, span.end).graph)]
        inside = {block for block in blocks for path in paths if path.startswith(f"{block}.")}
        # The numbers of a path except the last are those of its enclosing lists: one stage, one such prefix.
        assert len({tuple(part for part in block.split(".")[:-1]) for block in inside}) <= 1


def _weighted(graph: fx.Graph) -> dict[str, str]:
    """Map the name of each linear and convolution to the path of its weight, else to its own name."""
    found = {}
    for node in graph.nodes:
        if is_op(node, LINEAR | CONV):
            weight = node.args[1]
            found[node.name] = str(weight.target) if weight.op == "get_attr" else node.name
    return found


def test_every_image_dependent_layer_has_its_sites(case: Case) -> None:
    layers = _image_dependent_layers(case)
    activation_sites = {op: s for s in case.graph.sites.values() if not s.is_weight for op in s.consumers}
    assert layers
    for path in layers:
        weight = case.graph.sites[f"{path}/weight"]
        assert weight.role is Role.WEIGHT
        for op in weight.consumers:
            site = activation_sites[op]
            assert site.name.endswith("/input")
            assert site.consumers[0] != op or site.name == f"{path}/input"
    weights = [name.removesuffix("/weight") for name in case.graph.sites if name.endswith("/weight")]
    assert sorted(weights) == sorted(layers)


def _image_dependent_layers(case: Case) -> list[str]:
    """Run the eager model and keep the layers but those whose input carries no gradient of the image."""
    constant: set[str] = set()
    layers = {n: m for n, m in case.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, __, name=name: None if inputs[0].requires_grad else constant.add(name)
        )
        for name, layer in layers.items()
    ]
    case.model(case.images(1).requires_grad_(True))
    for hook in hooks:
        hook.remove()
    # A learnt query is no function of the image, but its layer runs at every call (the batch expands it).
    return [name for name in layers if name not in constant or name.endswith("attn_pool.q")]


def test_what_is_behind_an_activation_is_known(case: Case) -> None:
    behind = [site.name for site in case.graph.sites.values() if site.role is Role.POST_ACTIVATION]
    # EVA-02 multiplies its SiLU by another linear's output: that product is of no known role.
    assert bool(behind) == (not case.name.startswith("eva02")), behind


def test_every_attention_has_its_sites(case: Case) -> None:
    roles = Counter(site.role for site in case.graph.sites.values())
    attentions = sum(is_op(n, SOFTMAX) for n in case.graph.module.graph.nodes)
    mixed = sum(name.endswith("/left") for name in case.graph.sites)
    assert (attentions == 0) == (case.name == "convnext")
    # Talking heads put a linear on both sides of the softmax, so their products are of no known role.
    assert mixed == (1 if case.name.startswith("cait") else 0)
    assert roles[Role.PROBABILITIES] == attentions
    assert roles[Role.QUERY] == roles[Role.KEY] == roles[Role.VALUE] == attentions - mixed


def test_sites_point_at_nodes_that_feed_their_consumers(case: Case) -> None:
    nodes = {node.name: node for node in case.graph.module.graph.nodes}
    assert len({site.node for site in case.graph.sites.values()}) == len(case.graph.sites)
    for name, site in case.graph.sites.items():
        assert site.name == name
        assert all(nodes[op] in nodes[site.node].users for op in site.consumers)
        assert (site.role is Role.IMAGE) == (nodes[site.node].op == "placeholder")


def test_segments_run_backward(case: Case) -> None:
    graph = case.graph.clone()
    x = case.images(2)
    for span in graph.spans("block"):
        segment = graph.segment(span.start, span.end).requires_grad_(True)
        used = {attribute(segment, str(n.target)) for n in segment.graph.nodes if n.op == "get_attr"}
        x = x.detach().requires_grad_(True)
        y = segment(x)
        y.square().sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0
        parameters = [p for p in used if isinstance(p, nn.Parameter)]
        assert parameters
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)
        x = y


def test_saved_graph_is_the_same_graph(case: Case, rounding: type[nn.Module]) -> None:
    graph = case.graph.clone()
    graph.insert({name: rounding() for name in graph.sites})
    _check_round_trip(graph, case)
    if case.name in PLAIN_ROUND_TRIPS:
        _check_round_trip(case.graph, case)


@torch.no_grad()
def _check_round_trip(graph: Graph, case: Case) -> None:
    text = json.dumps(to_json(graph.module), allow_nan=False)
    tensors, modules = dict(graph.module.state_dict()), dict(graph.module.named_modules())
    again = Graph(from_json(json.loads(text), tensors, modules))
    for batch in (1, 3):
        assert torch.equal(again(case.images(batch)), graph(case.images(batch)))
    assert (again.cuts, again.sites, again.feature) == (graph.cuts, graph.sites, graph.feature)
    assert again.quantizers == graph.quantizers
    for granularity in ("layer", *GRANULARITIES):
        assert again.spans(granularity) == graph.spans(granularity)
    middle = graph.spans("block")[1]
    x = torch.randn(3, *again.slicing.nodes[middle.start].meta["val"].shape[1:])
    x = x.repeat_interleave(_rows(again, middle.start), 0)
    assert torch.equal(again.segment(middle.start, middle.end)(x), graph.segment(middle.start, middle.end)(x))
    assert _parameters(again) == _parameters(graph)
    assert json.dumps(to_json(again.module), allow_nan=False) == text


def _rows(graph: Graph, name: str) -> int:
    """Count the rows that node ``name`` has per image."""
    rows = graph.slicing.nodes[name].meta["val"].shape[0].node.expr
    return int(rows.as_coeff_Mul()[0])


def _parameters(graph: Graph) -> set[tuple[str, bool]]:
    return {(name, parameter.requires_grad) for name, parameter in graph.module.named_parameters()}

"""Several outputs by name: cuts ignore them, segments reach them, files keep them."""

import copy
import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_models import Block
from torch import nn

from vitq.errors import ArtifactError, ModelError
from vitq.graph import Graph, capture
from vitq.graph.outputs import named_outputs
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Several(nn.Module):
    """Three blocks and heads; ``form`` says what is returned of the blocks' ends."""

    def __init__(self, form: Callable[["Several", list[torch.Tensor]], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Linear(4, 8), nn.Sequential(Block(), Block(), Block())
        self.boxes = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        self.head, self.aux = nn.Linear(8, 3), nn.Linear(8, 2)
        self.form = form

    def forward(self, x_B4: torch.Tensor) -> Any:
        ends = [self.stem(x_B4)]
        for block in self.blocks:
            ends.append(block(ends[-1]))
        return self.form(self, ends)


FORMS: dict[str, Callable[[Several, list[torch.Tensor]], Any]] = {
    "two heads": lambda m, ends: {"logits": m.head(ends[3]), "boxes": m.boxes(ends[3]).sigmoid()},
    "the longer head first": lambda m, ends: {"boxes": m.boxes(ends[3]).sigmoid(), "logits": m.head(ends[3])},
    "the feature": lambda m, ends: (m.head(ends[3]), ends[3]),
    "features from inside": lambda m, ends: {"logits": m.head(ends[3]), "maps": [ends[1], ends[2]]},
    "a head inside, computed last": lambda m, ends: {"logits": m.head(ends[3]), "aux": m.aux(ends[1]).relu()},
    "one tensor twice": lambda m, ends: {"a": ends[3], "b": ends[3]},
    "the input": lambda m, ends: {"x": m.head(ends[3]), "first": ends[0]},
}


@cache
def captured(form: str) -> tuple[Several, Graph]:
    """Return a model and its graph, captured once: who changes it clones it."""
    model = Several(FORMS[form]).eval()
    return model, capture(model, X)


@pytest.fixture(params=FORMS)
def case(request: pytest.FixtureRequest) -> tuple[Several, Graph]:
    return captured(request.param)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(y, b[name]) for name, y in a.items())


@torch.no_grad()
def test_a_graph_returns_what_the_model_returns_by_name(case: tuple[Several, Graph]) -> None:
    model, graph = case
    for batch in (1, 2, 5):
        assert same(graph(X[:batch]), named_outputs(model(X[:batch])))


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["cuts", "unit", "block", "2", "network"])
def test_the_chain_with_what_lies_beside_it_equals_the_whole(case: tuple[Several, Graph], granularity: str) -> None:
    _, graph = case
    ends = list(pairwise(graph.cuts)) if granularity == "cuts" else [(s.start, s.end) for s in graph.spans(granularity)]
    values, x = {}, X
    for start, end in ends:
        sides = graph.sides(start, end)
        x, *beside = _tuple(graph.segment(start, end, sides)(x))
        values |= {end: x, **dict(zip(sides, beside, strict=True))}
    assert same({name: values[node] for name, node in graph.outputs.items()}, graph(X))


def _tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@torch.no_grad()
def test_outputs_behind_a_cut_follow_from_it(case: tuple[Several, Graph]) -> None:
    _, graph = case
    whole = graph(X)
    assert list(graph.to_outputs(graph.cuts[0]).names) == list(graph.outputs)
    for cut in graph.cuts:
        found = graph.to_outputs(cut)(graph.segment(graph.cuts[0], cut)(X))
        assert found and all(torch.equal(y, whole[name]) for name, y in found.items())


def test_what_is_returned_keeps_nothing_alive(case: tuple[Several, Graph]) -> None:
    _, graph = case
    names = [span.name for span in graph.spans("block")]
    assert names[:4] == ["stem", "blocks.0", "blocks.1", "blocks.2"][: len(names)]
    assert len([name for name in names if name.startswith("blocks")]) == 3


def test_every_layer_is_in_one_segment_or_beside_it(case: tuple[Several, Graph]) -> None:
    _, graph = case
    for granularity in ("unit", "block", "network"):
        parts = [graph.segment(s.start, s.end, graph.sides(s.start, s.end)) for s in graph.spans(granularity)]
        held = [n.target for part in parts for n in part.graph.nodes if n.op == "get_attr" and "weight" in n.target]
        assert sorted(held) == sorted(
            n.target for n in graph.module.graph.nodes if n.op == "get_attr" and "weight" in n.target
        )


def test_what_is_returned_is_compared_with_the_teacher(case: tuple[Several, Graph]) -> None:
    _, graph = case
    assert {*graph.outputs.values(), *(span.end for span in graph.spans("unit"))} <= graph.compared


def test_heads_share_the_feature() -> None:
    for form in ("two heads", "a head inside, computed last"):
        _, graph = captured(form)
        assert graph.feature == graph.spans("block")[3].end


@torch.no_grad()
def test_a_saved_graph_has_the_same_outputs(case: tuple[Several, Graph], rounding: type[nn.Module]) -> None:
    graph = case[1].clone()
    graph.insert({name: rounding() for name in graph.sites})
    text = json.dumps(to_json(graph.module), sort_keys=True)
    again = Graph(from_json(json.loads(text), graph.module.state_dict(), dict(graph.module.named_modules())))
    assert same(again(X), graph(X)) and again.outputs == graph.outputs and again.cuts == graph.cuts
    assert again.spans("unit") == graph.spans("unit") and again.output_shapes == graph.output_shapes


def test_a_graph_of_one_output_is_saved_as_before() -> None:
    graph = capture(Several(lambda m, ends: {"classes": m.head(ends[3])}), X)
    assert list(graph.outputs) == ["logits"] and isinstance(graph(X), torch.Tensor)
    assert to_json(graph.module)["nodes"][-1]["args"] == [{"node": graph.cuts[-1]}]


@cache
def _written() -> Any:
    class Plain(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x.relu().reshape(x.shape[0], 2, 2)

    return json.loads(json.dumps(to_json(capture(Plain(), X).module)))


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [["a", {"node": "relu"}]],
        [["a", {"node": "x"}], ["a", {"node": "relu"}]],
        [["a", {"node": "x"}], ["images", {"node": "relu"}]],
        [["a", {"node": "x"}], ["b'", {"node": "relu"}]],
        [["a", {"node": "x"}], ["b", 3]],
        [["a", {"node": "x"}], ["b", {"outputs": []}]],
        [["a", {"node": "x"}], ["b", {"node": "sym_size_int"}]],
        [["a", {"node": "x"}], 7],
        {"a": {"node": "x"}},
    ],
)
def test_outputs_of_an_edited_file_are_checked(outputs: Any) -> None:
    data = copy.deepcopy(_written())
    data["nodes"][-1]["args"] = [{"outputs": outputs}]
    with pytest.raises(ArtifactError):
        from_json(data, {}, {})


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ((X, X), ["output_0", "output_1"]),
        ({"a": X, "b": [X, None, (X,)]}, ["a", "b.0", "b.2.0"]),
        ({"images": X, 1: X, "a b": X}, ["output_images", "output_1", "a_b"]),
        ([X], ["logits"]),
    ],
)
def test_names_are_paths(outputs: Any, names: list[str]) -> None:
    assert list(named_outputs(outputs)) == names


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(ModelError, match=r"two outputs of the model would be called 'a\.0'"):
        named_outputs({"a": [X, X], "a.0": X})


def test_an_output_without_the_image_is_named() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"logits": x.relu(), "anchors": torch.ones(3)}

    with pytest.raises(ModelError, match="the output 'anchors' of Constant does not depend on its input"):
        capture(Constant(), X)

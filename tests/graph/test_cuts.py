"""Cuts, segments and granularities on models small enough to check by hand."""

import pytest
import torch
from small_models import Block
from torch import nn

from vitq.errors import GraphError, RecipeError
from vitq.graph import Graph, capture


class Residual(nn.Module):
    """Two residual units in a list, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 3)

    def forward(self, x_B4: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x_B4)))


class Folded(nn.Module):
    """Fold tokens into the batch and unfold them again: the batch must be divided out of 4·s."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 3)

    def forward(self, x_B43: torch.Tensor) -> torch.Tensor:
        y = self.norm(x_B43.flatten(0, 1))
        return self.fc(y.reshape(x_B43.shape[0], 4, 3)).mean(1)


class Split(nn.Module):
    """Pass a tuple between operations: three values are alive, then one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x_B6: torch.Tensor) -> torch.Tensor:
        a, b, c = self.fc(x_B6).split(2, dim=1)
        return (a * b + c).relu()


class Mask(nn.Module):
    """Hold a tensor made from the batch size alive across everything: it is no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("keep", torch.tensor([1.0, 0.0, 1.0, 1.0]))

    def forward(self, x_B4: torch.Tensor) -> torch.Tensor:
        mask = self.keep.expand(x_B4.shape[0], -1)
        return self.second(self.first(x_B4) * mask) * mask


class NoLinear(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu().flatten(1).softmax(-1)


class Twice(nn.Module):
    """Use one linear in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x_B4: torch.Tensor) -> torch.Tensor:
        return self.fc(self.fc(x_B4).relu())


def _targets(graph: Graph) -> list[str]:
    by_name = {n.name: n for n in graph.module.graph.nodes}
    return [getattr(by_name[c].target, "__name__", "input") for c in graph.cuts]


def test_cuts_of_a_residual_model() -> None:
    graph = capture(Residual(), torch.randn(2, 4))
    ops = ["linear.default", "add.Tensor", "add.Tensor", "linear.default"]
    assert _targets(graph) == ["input", *ops]
    assert [s.name for s in graph.spans("unit")] == ["stem", "blocks.0", "blocks.1", "head"]
    assert [s.name for s in graph.spans("stage")] == ["stem", "blocks.0-1", "head"]
    assert [s.name for s in graph.spans("layer")][1:3] == ["blocks.0.fc1", "blocks.0.fc2"]
    assert graph.feature == graph.cuts[-2]


def test_one_number_groups_that_many_blocks() -> None:
    model = Residual()
    model.blocks = nn.Sequential(*(Block() for _ in range(5)))
    graph = capture(model, torch.randn(2, 4))
    assert [s.name for s in graph.spans("2")][1:-1] == ["blocks.0-1", "blocks.2-3", "blocks.4"]
    assert [s.name for s in graph.spans("3")][1:-1] == ["blocks.0-2", "blocks.3-4"]
    for unknown in ("0", "blok", "²"):
        with pytest.raises(RecipeError, match="granularity"):
            graph.spans(unknown)


def test_a_multiple_of_the_batch_is_divided_out() -> None:
    graph = capture(Folded(), torch.randn(2, 4, 3))
    shapes = {n.name: n.meta["val"].shape for n in graph.module.graph.nodes if n.name in graph.cuts}
    folded = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == 3][:-1]
    assert folded
    for cut in folded:
        for batch in (1, 2, 5):
            x = torch.randn(batch, 4, 3)
            middle = graph.segment(graph.cuts[0], cut)(x)
            assert middle.shape == (4 * batch, 3)
            assert torch.equal(graph.segment(cut, graph.cuts[-1])(middle), graph(x))


def test_a_tuple_is_no_cut() -> None:
    graph = capture(Split(), torch.randn(2, 6))
    names = _targets(graph)
    assert names == ["input", "linear.default", "add.Tensor", "relu.default"]
    x = torch.randn(3, 6)
    y = graph.segment(graph.cuts[1], graph.cuts[2])(graph.segment(graph.cuts[0], graph.cuts[1])(x))
    assert torch.equal(y.relu(), graph(x))


def test_a_mask_made_from_the_batch_size_is_no_activation() -> None:
    graph = capture(Mask(), torch.randn(2, 4))
    assert len(graph.spans("layer")) == 2
    assert [n.partition(".")[0] for n in _targets(graph)] == ["input", "linear", "mul", "linear", "mul"]
    x = torch.randn(3, 4)
    start, _, middle, *_, end = graph.cuts
    assert torch.equal(graph.segment(middle, end)(graph.segment(start, middle)(x)), graph(x))


def test_a_model_without_weights_is_one_span() -> None:
    graph = capture(NoLinear(), torch.randn(2, 2, 3))
    for granularity in ("unit", "block", "stage", "network"):
        (span,) = graph.spans(granularity)
        assert (span.start, span.end) == (graph.cuts[0], graph.cuts[-1])
    assert graph.spans("layer") == () and not any(site.of_product for site in graph.sites.values())


def test_a_linear_used_twice_is_two_layers_with_one_weight() -> None:
    graph = capture(Twice(), torch.randn(2, 4))
    assert [s.name for s in graph.spans("layer")] == ["fc", "fc.2"]
    products = [name for name, site in graph.sites.items() if site.of_product]
    assert products == ["fc/input", "fc/weight", "fc/input.2"]
    assert len(graph.sites["fc/weight"].consumers) == 2


def test_taps_come_with_the_result() -> None:
    graph = capture(Residual(), torch.randn(2, 4))
    x = torch.randn(2, 4)
    start, first, second, third, end = graph.cuts
    result, tap = graph.segment(start, third, (second,))(x)
    assert torch.equal(result, graph.segment(start, third)(x))
    assert torch.equal(tap, graph.segment(start, second)(x))
    assert torch.equal(graph.segment(end, end)(x), x)
    assert torch.equal(graph.segment(first, first)(x), x)


def test_wrong_ends_are_refused() -> None:
    graph = capture(Residual(), torch.randn(2, 4))
    start, first, second, *_ = graph.cuts
    with pytest.raises(GraphError, match="no node 'nowhere'"):
        graph.segment(start, "nowhere")
    with pytest.raises(GraphError, match="no node 'tap'"):
        graph.segment(start, second, ("tap",))
    with pytest.raises(GraphError, match="also reads the model's input"):
        graph.segment(second, first)
    inside = next(n.name for n in graph.module.graph.nodes if "relu" in n.name)
    with pytest.raises(GraphError, match="also reads the model's input"):
        graph.segment(inside, second)


def test_a_size_that_the_start_does_not_have_is_refused() -> None:
    graph = capture(Folded(), torch.randn(2, 4, 3))
    constant_batch = graph.segment(graph.cuts[0], graph.cuts[-1])
    assert constant_batch(torch.randn(6, 4, 3)).shape == (6, 3)
    by_name = {n.name: n for n in graph.module.graph.nodes}
    weight = next(n for n in by_name.values() if n.op == "get_attr")
    with pytest.raises(GraphError):
        graph.segment(weight.name, graph.cuts[-1])

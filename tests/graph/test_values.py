"""Shapes of a rebuilt graph: known at every node, in units of the batch."""

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from vitq.errors import GraphError
from vitq.graph.ops import aten
from vitq.graph.values import annotate


def _module(build: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return fx.GraphModule(nn.Module(), graph)


def test_shapes_are_multiples_of_the_batch() -> None:
    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        return graph.call_function(aten.reshape.default, (x, [-1, 2]))

    module = _module(build)
    annotate(module, (None, 4, 2), torch.float64)
    x, y, _ = module.graph.nodes
    batch = x.meta["val"].shape[0]
    assert not isinstance(batch, int) and tuple(x.meta["val"].shape[1:]) == (4, 2)
    assert y.meta["val"].shape[0].node.expr == 4 * batch.node.expr
    assert y.meta["val"].dtype == torch.float64


def test_an_input_without_a_batch_is_possible() -> None:
    module = _module(lambda graph, x: graph.call_function(aten.relu.default, (x,)))
    annotate(module, (2, 3), torch.float32)
    assert all(node.meta["val"].shape == (2, 3) for node in list(module.graph.nodes)[:-1])


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 3), "does not run on the shapes"), ((2, 3), "runs for one batch size only")]
)
def test_graphs_that_do_not_fit_are_refused(shape: tuple[int, int], message: str) -> None:
    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        return graph.call_function(aten.view.default, (x, shape if message.startswith("does") else [8191, 3]))

    with pytest.raises(GraphError, match=message):
        annotate(_module(build), (2, 3) if message.startswith("does") else (None, 3), torch.float32)

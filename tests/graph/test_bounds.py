"""What a loaded graph may cost is asked while it is loaded, and no operator outside the list is called."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from vitq.errors import ArtifactError, ModelError
from vitq.graph import Graph, capture
from vitq.graph.encoding import decode_argument, decode_target
from vitq.graph.operators import OPERATORS, is_allowed
from vitq.graph.ops import ADD, aten, leads_to
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer

Saved = tuple[dict[str, Any], dict[str, torch.Tensor]]


class Plain(nn.Module):
    """A linear on an input whose size is asked for: ``sym_size_int`` is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x_B6: torch.Tensor) -> torch.Tensor:
        return self.fc(x_B6).reshape(x_B6.shape[0] * 2, 3).softmax(-1).reshape(x_B6.shape[0], 6)


@pytest.fixture(scope="module")
def saved() -> Saved:
    torch.manual_seed(0)
    graph = capture(Plain(), torch.randn(2, 6))
    return json.loads(json.dumps(to_json(graph.module))), dict(graph.module.state_dict())


def _call(name: str, target: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"op": "call_function", "name": name, "target": target, "args": list(args), "kwargs": kwargs}


def _at(name: str) -> dict[str, str]:
    return {"node": name}


BATCH, X = _at("BATCH"), _at("x_b6")


def _zeros(name: str, *sizes: Any) -> dict[str, Any]:
    return _call(name, "aten.zeros.default", list(sizes))


COSTLY: dict[str, list[dict[str, Any]]] = {
    "a batch of 64 only": [
        _call("c", "operator.eq", BATCH, 64),
        _call("d", "operator.mul", _at("c"), 1 << 40),
        _zeros("e", _at("d")),
    ],
    "a batch of one only": [
        _call("c", "operator.floordiv", 1, BATCH),
        _call("d", "operator.mul", _at("c"), 1 << 40),
        _zeros("e", _at("d")),
    ],
    "small batches only": [
        _call("c", "operator.floordiv", 8000, BATCH),
        _call("d", "operator.mul", _at("c"), 1 << 30),
        _zeros("e", _at("d")),
    ],
    "small batches by the length of a range": [
        _call("c", "aten.arange.start_step", 0, 100, BATCH),
        _call("d", "aten.sym_size.int", _at("c"), 0),
        _call("e", "operator.sub", _at("d"), 1),
        _call("f", "operator.mul", _at("e"), 1 << 40),
        _zeros("g", _at("f")),
    ],
    "batches with a rest": [_call("c", "operator.mod", BATCH, 8190), _zeros("e", _at("c"))],
    "a power of the batch": [_call("c", "operator.pow", 2, BATCH)],
    "a tensor in more parts than there is memory for": [_zeros("c", 1 << 30), _call("d", "aten.unbind.int", _at("c"))],
    "parts of one": [_zeros("c", 1 << 30), _call("d", "aten.split.Tensor", _at("c"), 1)],
    "parts of none": [_zeros("c", 1 << 30), _call("d", "aten.split.Tensor", _at("c"), 0)],
    "parts by keyword": [_zeros("c", 1 << 30), _call("d", "aten.unbind.int", _at("c"), dim=0)],
    "chunks": [_zeros("c", 1 << 30), _call("d", "aten.chunk.default", _at("c"), 1 << 30)],
    "a recurrence of a billion steps": [
        _zeros("c", 1 << 30, 1, 1),
        _zeros("h", 1, 1, 1),
        _zeros("w", 4, 1),
        _call("d", "aten.lstm.input", _at("c"), [_at("h")] * 2, [_at("w")] * 2, False, 1, 0.0, False, False, False),
    ],
    "much at once": [_zeros(f"c{i}", 1 << 30) for i in range(9)]
    + [_call(f"d{i}", "aten.add.Tensor", _at(f"c{i}"), _at("c8")) for i in range(9)],
    "wide numbers": [_call("c", "aten.zeros.default", [1 << 30], dtype={"dtype": "complex128"})],
    "seventy dimensions": [_zeros("c", *[1] * 70)],
    "statistics that are not there": [
        _zeros("c", 2, 1000, 2, 2),
        _zeros("s", 1),
        _call(
            "d", "aten._native_batch_norm_legit_no_training.default", _at("c"), None, None, _at("s"), _at("s"), 0.1, 0.1
        ),
    ],
    "operands by keyword": [_call("c", "aten.linear.default", input=X, weight=_at("fc_weight"))],
    "a slice of a number": [_call("c", "operator.getitem", BATCH, 0)],
    "a text repeated": [_call("c", "aten.mul.left_t", [1], 1 << 40)],
    "a text filled up": [_call("c", "aten.ljust.default", "a", 1 << 40)],
    "a shape made of values": [_call("c", "aten.nonzero.default", X)],
    "a number made of values": [_call("c", "aten.item.default", X)],
    "classes made of values": [_call("c", "aten.one_hot.default", _at("fc_weight"))],
    "chosen by truth": [
        _call("c", "aten.gt.Scalar", X, 0),
        _call("d", "aten.index.Tensor", X, [_at("c")]),
    ],
}


def _read(saved: Saved, nodes: list[dict[str, Any]], modules: dict[str, nn.Module] | None = None) -> fx.GraphModule:
    data = copy.deepcopy(saved[0])
    batch = next(node["name"] for node in data["nodes"] if node.get("target") == "aten.sym_size.int")
    data["nodes"][-1:-1] = json.loads(json.dumps(nodes).replace('"BATCH"', json.dumps(batch)))
    return from_json(data, saved[1], modules or {})


@pytest.mark.parametrize("name", COSTLY)
def test_a_graph_that_would_cost_too_much_is_refused(name: str, saved: Saved) -> None:
    with pytest.raises(ArtifactError) as refused:
        _read(saved, COSTLY[name])
    assert "before it is computed" not in str(refused.value)


def test_arithmetic_on_the_batch_that_does_the_same_for_all_is_read(saved: Saved) -> None:
    nodes = [
        _call("c", "operator.mul", BATCH, 12),
        _call("d", "operator.floordiv", _at("c"), 4),
        _call("e", "operator.add", _at("d"), BATCH),
        _call("f", "operator.eq", 3, 3),
        _zeros("g", _at("e"), 2),
    ]
    assert Graph(_read(saved, nodes))(torch.randn(1, 6)).shape == (1, 6)


@pytest.mark.parametrize(
    "target",
    [
        "aten.initial_seed.default",
        "aten._test_warn_in_autograd.default",
        "aten.sparse_coo_tensor.indices",
        "aten._sparse_csr_tensor_unsafe.default",
        "aten.quantize_per_tensor.default",
        "aten.fbgemm_pack_quantized_matrix.default",
        "aten.mkldnn_linear.default",
        "aten.convolution_backward.default",
        "aten.native_group_norm.default",
        "aten._fft_c2r.default",
        "aten.bernoulli.default",
        "aten.empty_like.default",
        "aten.format.default",
        "aten.to.prim_device",
        "aten.lstm.data",
    ],
)
def test_operators_outside_the_list_are_refused(target: str) -> None:
    with pytest.raises(ArtifactError, match="not allowed"):
        decode_target(target)


def test_every_listed_operator_is_there_and_gives_tensors_or_a_size() -> None:
    for name in OPERATORS:
        packet = getattr(aten, name, None)
        overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
        assert packet is None or any(is_allowed(overload) for overload in overloads), name
        assert not any(is_allowed(o) and o._schema.is_mutable for o in overloads)


@pytest.mark.parametrize("name", ["onnx", "_dynamo", "load", "Tensor", "nn", ["float32"], {}, None])
def test_a_type_is_one_of_torchs_own_types(name: Any) -> None:
    with pytest.raises(ArtifactError):
        decode_argument({"dtype": name}, {})


@pytest.mark.parametrize("path", ["a..b", "blocks.", ".", "a\nb", "\0"])
def test_a_stack_of_modules_has_names_between_its_dots(path: str, saved: Saved) -> None:
    data = copy.deepcopy(saved[0])
    data["module_stacks"] = [[path]] * len(data["module_stacks"])
    with pytest.raises(ArtifactError, match="no stack of modules"):
        from_json(data, saved[1], {})


def _quantizer(**parameters: torch.Tensor) -> Quantizer:
    per = Granularity.TENSOR if parameters["scale"].ndim == 0 else Granularity.HEAD
    quantizer = make_quantizer(Format("affine", 8, per), None if parameters["scale"].ndim == 0 else -3)
    quantizer.set_parameters(**parameters)
    return quantizer


def _quantized(saved: Saved, source: str, target: str, size: int | None = None) -> fx.GraphModule:
    """Put a quantizer between the input and its linear, or wherever ``source`` says."""
    shape = () if size is None else (size, 1, 1)
    quantizer = _quantizer(scale=torch.ones(shape), zero_point=torch.zeros(shape))
    data = copy.deepcopy(saved[0])
    linear = next(i for i, node in enumerate(data["nodes"]) if "linear" in node.get("target", ""))
    data["nodes"][linear]["args"][0] = {"node": "q"}
    data["nodes"].insert(linear, {"op": "call_module", "name": "q", "target": target, "args": [{"node": source}]})
    return from_json(data, saved[1], {target: quantizer})


def test_a_quantizer_stands_on_the_site_that_it_is_named_after(saved: Saved) -> None:
    assert list(Graph(_quantized(saved, "x_b6", "quantizers.fc__input")).quantizers) == ["fc/input"]
    for source, target in (("x_b6", "quantizers.fc__weight"), ("x_b6", "quantizers.other"), ("x_b6", "fc")):
        with pytest.raises(ArtifactError):
            _quantized(saved, source, target)


def test_a_quantizer_that_would_make_more_of_its_tensor_is_refused(saved: Saved) -> None:
    with pytest.raises(ArtifactError, match="parameters of shape"):
        _quantized(saved, "x_b6", "quantizers.fc__input", 1 << 12)


def test_a_search_along_users_looks_at_each_once() -> None:
    graph = fx.Graph()
    row = [graph.placeholder("x")] * 2
    for _ in range(12):  # 24 nodes in each layer, all of them read by all of the next
        row = [graph.call_function(aten.cat.default, (row,)) for _ in range(24)]
    assert leads_to(next(iter(graph.nodes)), ADD, lambda node: True) is None


def test_an_operator_that_cannot_be_saved_is_refused_before_any_work() -> None:
    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.special.bessel_j0(x)

    with pytest.raises(ModelError, match=r"aten\.special_bessel_j0\.default"):
        capture(Random(), torch.randn(2, 4))


def test_memory_that_nobody_wrote_is_zero_and_a_squeeze_keeps_a_batch_of_one() -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.mean((2, 3), keepdim=True).squeeze()) + x.new_empty(x.shape[0], 5).fill_(2.0)

    model, graph = Loose().eval(), capture(Loose().eval(), torch.randn(2, 4, 3, 3))
    graph = capture(model, torch.randn(2, 4, 3, 3))
    x = torch.randn(3, 4, 3, 3)
    assert torch.equal(graph(x), model(x))
    assert graph(x[:1]).shape == (1, 5)
    again = from_json(to_json(graph.module), dict(graph.module.state_dict()), {})
    assert torch.equal(again(x[:1]), graph(x[:1]))


def test_a_graph_that_is_folded_twice_keeps_both_constants() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bias, self.w = nn.Linear(6, 6), nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6, 7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bd,ed->be", self.fc(x) + self.bias.sin(), self.w.t())

    model, x = Twice().eval(), torch.randn(3, 6)
    torch.testing.assert_close(capture(model, x)(x), model(x))


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "keywords as a list": lambda node: node.update(kwargs=[1]),
    "arguments as a text": lambda node: node.update(args="abc"),
    "a target as a number": lambda node: node.update(target=3),
    "a target as a list": lambda node: node.update(target=["aten.neg.default"]),
    "an operation as nothing": lambda node: node.update(op=None),
    "a stack as a text": lambda node: node.update(stack="0"),
    "a stack from behind": lambda node: node.update(stack=-1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_types_are_refused(change: str, saved: Saved) -> None:
    data = copy.deepcopy(saved[0])
    CHANGES[change](next(node for node in data["nodes"] if node["op"] == "call_function"))
    with pytest.raises(ArtifactError):
        from_json(data, saved[1], {})

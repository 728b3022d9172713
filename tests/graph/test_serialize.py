"""Saved graphs: every kind of argument survives, and a tampered file cannot run code."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from vitq.errors import ArtifactError
from vitq.graph import Graph, capture
from vitq.graph.encoding import decode_argument, decode_target, encode_argument, encode_target
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json


class Tiny(nn.Module):
    """A linear, a tuple, a slice, a dtype, an infinity, a tensor of the batch size, a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("offset", torch.randn(6))

    def forward(self, x_B6: torch.Tensor) -> torch.Tensor:
        a, b = self.fc(x_B6).split(3, dim=1)
        rows = torch.arange(x_B6.shape[0], device=x_B6.device).to(torch.float32)[:, None]
        y = torch.cat([a.clamp(max=float("inf")), b.masked_fill(b > 1, float("-inf"))], dim=1)
        return self.fc(y.clamp(-4, 4) + self.offset) * rows + y[:, :1].clamp(-4, 4)


@pytest.fixture(scope="module")
def captured() -> Graph:
    torch.manual_seed(0)
    return capture(Tiny(), torch.randn(2, 6))


@pytest.fixture
def graph(captured: Graph) -> Graph:
    return captured.clone()


@pytest.fixture
def data(graph: Graph) -> dict[str, Any]:
    return json.loads(json.dumps(to_json(graph.module), allow_nan=False))


def _load(data: dict[str, Any], graph: Graph) -> fx.GraphModule:
    return from_json(data, dict(graph.module.state_dict()), dict(graph.module.named_modules()))


def test_round_trip(graph: Graph, data: dict[str, Any], rounding: type[nn.Module]) -> None:
    again = Graph(_load(data, graph))
    for batch in (1, 2, 9):
        x = torch.randn(batch, 6)
        assert torch.equal(again(x), graph(x))
    assert isinstance(again.module.fc.weight, nn.Parameter) and not again.module.fc.weight.requires_grad
    assert dict(again.module.named_buffers()).keys() == {"offset"}
    again.insert({"fc/weight": rounding()})
    twice = Graph(_load(to_json(again.module), again))
    assert torch.equal(twice(x), again(x))
    assert list(twice.quantizers) == ["fc/weight"]


def test_the_same_model_gives_the_same_bytes(graph: Graph, data: dict[str, Any]) -> None:
    torch.manual_seed(0)
    again = capture(Tiny(), torch.randn(5, 6))
    assert json.dumps(to_json(again.module)) == json.dumps(to_json(graph.module)) == json.dumps(data)


def test_nothing_in_the_file_holds_the_batch(data: dict[str, Any]) -> None:
    assert data["input"] == {"shape": ["batch", 6], "dtype": "float32"}


@pytest.mark.parametrize(
    "argument",
    [
        None,
        True,
        0,
        -3,
        1e-12,
        1.0,
        float("inf"),
        float("-inf"),
        "same",
        torch.float32,
        torch.bool,
        torch.contiguous_format,
        torch.strided,
        torch.device("cpu"),
        [1, [2.5, None]],
        (1, (2,), []),
        slice(None, 3, None),
    ],
    ids=str,
)
def test_arguments_survive(argument: Any) -> None:
    again = decode_argument(json.loads(json.dumps(encode_argument(argument), allow_nan=False)), {})
    assert again == argument and type(again) is type(argument)


def test_a_nan_survives_and_a_device_becomes_the_cpu() -> None:
    again = decode_argument(encode_argument(float("nan")), {})
    assert again != again
    assert decode_argument(encode_argument(torch.device("cuda", 1)), {}) == torch.device("cpu")


@pytest.mark.parametrize("argument", [1j, object(), {"a": 1}, torch.ones(1)], ids=lambda a: type(a).__name__)
def test_other_arguments_are_refused(argument: Any) -> None:
    with pytest.raises(ArtifactError, match="cannot be saved"):
        encode_argument(argument)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "operator.methodcaller",
        "operator.setitem",
        "torch.load",
        "aten.save.default",
        "aten.from_file.default",
        "aten.add_.Tensor",
        "aten.add.out",
        "aten.linear",
        "aten.linear.nonsense",
        "aten.__class__.mro",
        "aten.linear.__class__",
        "prim.device.default",
        "aten.linear.default; import os",
        "",
    ],
)
def test_other_targets_are_refused(target: str, graph: Graph, data: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="not allowed"):
        decode_target(target)
    next(n for n in data["nodes"] if n["op"] == "call_function")["target"] = target
    with pytest.raises(ArtifactError, match="not allowed"):
        _load(data, graph)


def test_an_operator_outside_aten_cannot_be_saved() -> None:
    with pytest.raises(ArtifactError, match="not allowed"):
        encode_target(torch.relu)
    with pytest.raises(ArtifactError, match="not allowed"):
        encode_target(print)


def _first(data: dict[str, Any], op: str) -> dict[str, Any]:
    return next(n for n in data["nodes"] if n["op"] == op)


TAMPER: dict[str, Callable[[dict[str, Any]], Any]] = {
    "placeholder name": lambda d: _first(d, "placeholder").update(name="x=print('hacked')"),
    "node name": lambda d: _first(d, "call_function").update(name="a\nimport os"),
    "keyword name": lambda d: _first(d, "call_function").update(name="import"),
    "two names": lambda d: d["nodes"].insert(1, {"op": "get_attr", "name": "x_b6", "target": "fc.weight"}),
    "path": lambda d: _first(d, "get_attr").update(target='fc"); print("'),
    "path of a method": lambda d: _first(d, "get_attr").update(target="forward"),
    "dunder path": lambda d: _first(d, "get_attr").update(target="__class__.__init__"),
    "keyword argument": lambda d: _first(d, "call_function").update(kwargs={"a=print(1), b": 1}),
    "op": lambda d: _first(d, "call_function").update(op="call_method"),
    "module with two inputs": lambda d: _first(d, "call_function").update(op="call_module", target="fc", args=[1, 2]),
    "later node": lambda d: _first(d, "call_function").update(args=[{"node": "output"}]),
    "argument kind": lambda d: _first(d, "call_function").update(args=[{"eval": "1"}]),
    "dtype": lambda d: d["input"].update(dtype="load"),
    "shape": lambda d: d["input"].update(shape=["batch", 7]),
    "stack": lambda d: _first(d, "call_function").update(stack=10_000),
    "no output": lambda d: d["nodes"].pop(),
    "no nodes": lambda d: d.pop("nodes"),
    "two inputs": lambda d: d["nodes"].insert(0, {"op": "placeholder", "name": "y"}),
}


@pytest.mark.parametrize("change", TAMPER)
def test_tampered_files_are_refused(
    change: str, graph: Graph, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tampered = copy.deepcopy(data)
    TAMPER[change](tampered)
    tensors = dict(graph.module.state_dict())
    for node in tampered.get("nodes", ()):
        if node["op"] == "get_attr":
            tensors.setdefault(node["target"], torch.ones(1))
    with pytest.raises(ArtifactError):
        from_json(tampered, tensors, dict(graph.module.named_modules()))
    assert capsys.readouterr().out == ""


def test_missing_parts_are_named(graph: Graph, rounding: type[nn.Module]) -> None:
    graph.insert({"fc/weight": rounding()})
    data = to_json(graph.module)
    tensors = dict(graph.module.state_dict())
    with pytest.raises(ArtifactError, match=r"quantizer 'quantizers\.fc__weight'"):
        from_json(data, tensors, {})
    del tensors["fc.bias"]
    with pytest.raises(ArtifactError, match=r"tensor 'fc\.bias'"):
        from_json(data, tensors, dict(graph.module.named_modules()))

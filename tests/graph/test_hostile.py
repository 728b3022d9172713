"""Graphs that a stranger wrote: each is refused before anything of it runs."""

import copy
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vitq.errors import ArtifactError
from vitq.graph import Graph, capture
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json


class Plain(nn.Module):
    """A linear on a reshaped input: enough for every kind of node."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x_B6: torch.Tensor) -> torch.Tensor:
        return self.fc(x_B6).reshape(x_B6.shape[0] * 2, 3).softmax(-1).reshape(x_B6.shape[0], 6)


class Bomb(nn.Module):
    """A quantizer's place is taken by something that must never run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a stranger's module ran")


@pytest.fixture(scope="module")
def saved() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    graph = capture(Plain(), torch.randn(2, 6))
    return json.loads(json.dumps(to_json(graph.module))), dict(graph.module.state_dict())


def _call(name: str, target: str, *args: Any) -> dict[str, Any]:
    return {"op": "call_function", "name": name, "target": target, "args": list(args)}


def _before_output(data: dict[str, Any], *nodes: dict[str, Any]) -> None:
    """Add nodes whose results nobody reads: loading computes them all the same."""
    data["nodes"][-1:-1] = nodes


def _module(target: str, name: str = "m") -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        source = {"node": data["nodes"][-2]["name"]}
        _before_output(data, {"op": "call_module", "name": name, "target": target, "args": [source]})

    return change


def _rename(name: str) -> Callable[[dict[str, Any]], None]:
    """Give the placeholder another name, everywhere."""

    def change(data: dict[str, Any]) -> None:
        text = json.dumps(data["nodes"]).replace('"x_b6"', json.dumps(name))
        data["nodes"] = json.loads(text)

    return change


def _constant(*call: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: _before_output(data, _call("c", *call))


def _chain(data: dict[str, Any]) -> None:
    """Square a size again and again."""
    names = [f"p{i}" for i in range(12)]
    first = [_call(names[0], "operator.mul", 65_000, 65_000)]
    rest = [_call(b, "operator.mul", {"node": a}, {"node": a}) for a, b in itertools.pairwise(names)]
    _before_output(data, *first, *rest)


def _deep(depth: int) -> Any:
    argument: Any = 1
    for _ in range(depth):
        argument = [argument]
    return argument


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"a node named {name}": _rename(name)
        for name in ("self", "torch", "getattr", "device", "inf", "print", "lambda")
    },
    **{f"a node named {name!r}": _rename(name) for name in ("x\0", "é", "x;y", "", "a" * 5_000, 3, None, ["x"])},
    "self, and a path into torch": lambda data: (
        _rename("self")(data),
        _module("__torch_function__.__self__.PyTorchFileWriter")(data),
    ),
    "a module outside the quantizers": _module("fc.weight"),
    "a module with a dunder": _module("quantizers.__class__"),
    "a module two deep": _module("quantizers.a.b"),
    "a module named as a method": _module("quantizers.forward"),
    "the forward itself": _module("forward"),
    "a tensor named as the graph": lambda d: d["nodes"][1].update(target="graph"),
    "a tensor named as a method": lambda d: d["nodes"][1].update(target="recompile"),
    "a tensor with braces": lambda d: d["nodes"][1].update(target="a{b}"),
    "a tensor with NUL": lambda d: d["nodes"][1].update(target="a\0b"),
    "a tensor's path as a list": lambda d: d["nodes"][1].update(target=["fc", "weight"]),
    "a power without end": _constant("operator.pow", 10, 10**9),
    "a power of a power": _constant("operator.pow", 1 << 60, 4),
    "a long text": _constant("operator.mul", "a", 3 * 10**9),
    "a long list": _constant("operator.mul", [1], 3 * 10**9),
    "a text formatted": _constant("operator.mod", "%1000000000d", 1),
    "a division by zero": _constant("operator.floordiv", 1, 0),
    "an integer of 20,000 digits": _constant("operator.add", 10**4000, 1),
    "an infinite size": _constant("torch.sym_int", {"float": "inf"}),
    "sizes squared": _chain,
    "a keyword for a symbol": lambda d: _before_output(d, {**_call("c", "operator.add", 1, 2), "kwargs": {"a": 1}}),
    "a tensor of 16 TB": _constant("aten.zeros.default", [1 << 22, 1 << 20]),
    "a tensor of overflowing shape": _constant("aten.zeros.default", [1 << 40, 1 << 40]),
    "free memory": _constant("aten.empty.memory_format", [64]),
    "random values": _constant("aten.rand.default", [4]),
    "a file": _constant("aten.from_file.default", "/etc/passwd", False, 4),
    "nested arguments": _constant("aten.zeros.default", _deep(200)),
    "many arguments": _constant("aten.zeros.default", [1] * 100_000),
    "an argument that is an object of two": _constant("aten.zeros.default", {"node": "x_b6", "float": "inf"}),
    "a node as a list": _constant("aten.neg.default", {"node": ["x_b6"]}),
    "a slice of five": _constant("aten.neg.default", {"slice": [1, 2, 3, 4, 5]}),
    "too many nodes": lambda d: d.update(nodes=d["nodes"][:1] * 200_001),
    "nodes that are a text": lambda d: d.update(nodes="nodes"),
    "a node that is null": lambda d: d["nodes"].insert(1, None),
    "stacks that are texts": lambda d: d.update(module_stacks=["abc"]),
    "a stack of a number": lambda d: d.update(module_stacks=[[1]]),
    "an input without sizes": lambda d: d["input"].update(shape=[]),
    "an input of a huge size": lambda d: d["input"].update(shape=["batch", 10**12]),
    "an input of a negative size": lambda d: d["input"].update(shape=["batch", -6]),
    "an input of a truth value": lambda d: d["input"].update(shape=["batch", True]),
    "no input": lambda d: d.pop("input"),
    "an output of nothing": lambda d: d["nodes"][-1].update(args=[]),
    "two outputs": lambda d: d["nodes"].append(d["nodes"][-1]),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_graph_is_refused(change: str, saved: tuple[dict[str, Any], dict[str, torch.Tensor]]) -> None:
    data, tensors = copy.deepcopy(saved[0]), dict(saved[1])
    HOSTILE[change](data)
    modules: dict[str, nn.Module] = {}
    for node in data.get("nodes") or ():
        if isinstance(node, dict) and isinstance(node.get("target"), str):
            tensors.setdefault(node["target"], torch.ones(1))
            modules.setdefault(node["target"], Bomb())
    with pytest.raises(ArtifactError):
        from_json(data, tensors, modules)


def test_the_graph_itself_is_read(saved: tuple[dict[str, Any], dict[str, torch.Tensor]]) -> None:
    x = torch.randn(3, 6)
    assert Graph(from_json(*saved, {}))(x).shape == (3, 6)


@pytest.mark.parametrize("name", ["input", "self_", "device", "x"])
def test_what_a_model_calls_its_input_is_no_trouble(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def forward(self, {name}): return self.fc({name})", namespace)
    model = type("Named", (nn.Module,), {"forward": namespace["forward"]})()
    model.fc = nn.Linear(6, 2)
    graph = capture(model, torch.randn(2, 6))
    x = torch.randn(3, 6)
    again = Graph(from_json(to_json(graph.module), dict(graph.module.state_dict()), {}))
    assert torch.equal(again(x), graph(x))

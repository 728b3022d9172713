"""A captured graph as plain JSON: saved without pickle, rebuilt without the model's code."""

import keyword
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import ArtifactError, GraphError
from vitq.graph.encoding import decode_argument, decode_target, encode_argument, encode_target
from vitq.graph.ops import attribute, value
from vitq.graph.values import annotate

BATCH = "batch"


def to_json(module: fx.GraphModule) -> dict[str, Any]:
    """Return the graph of ``module`` as JSON values: input, module stacks, nodes in order; no tensors.

    Devices become the CPU. Raises ArtifactError where an operation or argument could not be loaded again.
    """
    stacks: dict[tuple[str, ...], int] = {}
    nodes = [_node_to_json(module, node, stacks) for node in module.graph.nodes]
    image = next(value(node) for node in module.graph.nodes if node.op == "placeholder")
    shape = [size if isinstance(size, int) else BATCH for size in image.shape]
    dtype = str(image.dtype).removeprefix("torch.")
    return {
        "input": {"shape": shape, "dtype": dtype},
        "module_stacks": [list(stack) for stack in stacks],
        "nodes": nodes,
    }


def from_json(
    data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module]
) -> fx.GraphModule:
    """Rebuild the graph that ``to_json`` wrote, with the batch dynamic again and every shape known.

    ``tensors`` holds a CPU tensor per path that a node reads (parameters come back frozen), ``modules``
    a quantizer per submodule that a node calls, by its target. Raises ArtifactError where one is missing,
    the data is damaged, or an operation is not allowed: no file can make this run other code.
    """
    try:
        return _rebuild(data, tensors, modules)
    except ArtifactError:
        raise
    except GraphError as error:
        raise ArtifactError(f"the saved graph does not fit its tensors: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"the saved graph is damaged: {type(error).__name__}: {error}") from error


def _node_to_json(module: fx.GraphModule, node: fx.Node, stacks: dict[tuple[str, ...], int]) -> dict[str, Any]:
    saved: dict[str, Any] = {"op": node.op, "name": node.name}
    if node.op == "call_function":
        saved["target"] = encode_target(node.target)
    elif node.op in ("get_attr", "call_module"):
        saved["target"] = node.target
    if node.op == "get_attr" and isinstance(attribute(module, str(node.target)), nn.Parameter):
        saved["parameter"] = True
    if node.args:
        saved["args"] = [encode_argument(argument) for argument in node.args]
    if node.kwargs:
        saved["kwargs"] = {name: encode_argument(argument) for name, argument in node.kwargs.items()}
    if stack := node.meta.get("nn_module_stack"):
        saved["stack"] = stacks.setdefault(tuple(path for path, _ in stack.values()), len(stacks))
    return saved


def _rebuild(
    data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module]
) -> fx.GraphModule:
    root, graph, nodes, placed = nn.Module(), fx.Graph(), dict[str, fx.Node](), set[str]()
    for saved in data["nodes"]:
        if saved["op"] == "get_attr" and saved["target"] not in placed:
            _place_tensor(root, saved, tensors)
            placed.add(saved["target"])
        elif saved["op"] == "call_module":
            owner, name = _owner(root, saved["target"])
            owner.add_module(name, _find(modules, saved["target"], "quantizer"))
        node = _node_from_json(graph, saved, nodes)
        if "stack" in saved:
            paths = data["module_stacks"][saved["stack"]]
            node.meta["nn_module_stack"] = {str(i): (str(path), "") for i, path in enumerate(paths)}
        nodes[node.name] = node
    ops = [node.op for node in graph.nodes]
    if ops.count("placeholder") != 1 or ops.count("output") != 1 or ops[-1] != "output":
        raise ArtifactError("the saved graph needs one input and, as its last node, one output")
    graph.lint()
    module = fx.GraphModule(root, graph)
    shape = [None if size == BATCH else int(size) for size in data["input"]["shape"]]
    annotate(module, shape, decode_argument({"dtype": data["input"]["dtype"]}, {}))
    return module.eval()


def _node_from_json(graph: fx.Graph, saved: Mapping[str, Any], nodes: Mapping[str, fx.Node]) -> fx.Node:
    """Add one saved node to ``graph``; names are checked because fx writes them into generated code."""
    op, name = saved["op"], saved["name"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or keyword.iskeyword(name):
        raise ArtifactError(f"'{name}' cannot be the name of a node")
    args = tuple(decode_argument(argument, nodes) for argument in saved.get("args", ()))
    kwargs = {key: decode_argument(argument, nodes) for key, argument in saved.get("kwargs", {}).items()}
    if op == "placeholder" and not args and not kwargs:
        node = graph.placeholder(name)
    elif op == "output" and len(args) == 1 and not kwargs:
        node = graph.create_node("output", "output", args, name=name)
    elif op == "get_attr" and not args and not kwargs:
        node = graph.create_node("get_attr", saved["target"], name=name)
    elif op == "call_module" and len(args) == 1 and isinstance(args[0], fx.Node) and not kwargs:
        node = graph.create_node("call_module", saved["target"], args, name=name)
    elif op == "call_function":
        target = decode_target(saved["target"])
        schema = getattr(target, "_schema", None)
        unknown = set(kwargs) - {argument.name for argument in (schema.arguments if schema else ())}
        if unknown:
            raise ArtifactError(f"node '{name}': {saved['target']} takes no argument {sorted(unknown)}")
        node = graph.create_node("call_function", target, args, kwargs, name=name)
    else:
        raise ArtifactError(f"node '{name}' of the saved graph is no valid '{op}'")
    if node.name != name:
        raise ArtifactError(f"the saved graph has two nodes named '{name}'")
    return node


def _place_tensor(root: nn.Module, saved: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    owner, name = _owner(root, saved["target"])
    tensor = _find(tensors, saved["target"], "tensor")
    if saved.get("parameter"):
        owner.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=False))
    else:
        owner.register_buffer(name, tensor.detach())


def _owner(root: nn.Module, path: Any) -> tuple[nn.Module, str]:
    """Return the submodule that holds ``path``, made where missing, and the last part of ``path``."""
    if not isinstance(path, str) or not re.fullmatch(r"[^\s'\"\\.]+(\.[^\s'\"\\.]+)*", path):
        raise ArtifactError(f"'{path}' cannot be the path of a tensor or quantizer")
    *parents, name = path.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, name


def _find(mapping: Mapping[str, Any], path: str, kind: str) -> Any:
    if path not in mapping:
        raise ArtifactError(f"the saved graph needs {kind} '{path}', which is missing")
    return mapping[path]

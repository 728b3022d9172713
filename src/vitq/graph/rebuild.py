"""Rebuild a saved graph: whatever a file says, only allowed operators on registered tensors come out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import ArtifactError, GraphError
from vitq.graph.edit import quantizer_target, without_quantizers
from vitq.graph.encoding import SYMBOLIC, decode_argument, decode_outputs, decode_target
from vitq.graph.grammar import (
    MOST_NODES,
    require_name,
    require_path,
    require_quantizer_path,
    require_same_globals,
    require_stack,
)
from vitq.graph.ops import is_tensor
from vitq.graph.outputs import returned
from vitq.graph.serialize import BATCH
from vitq.graph.sites import find_sites
from vitq.graph.values import annotate

MOST_SIZES, LARGEST_SIZE = 8, 1 << 16
"""Dimensions of the input, and the largest of them."""


def from_json(
    data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module]
) -> fx.GraphModule:
    """Rebuild the graph that ``to_json`` wrote, with the batch dynamic again and every shape known.

    ``tensors`` holds a CPU tensor per path that a node reads (parameters come back frozen), ``modules``
    a quantizer per submodule that a node calls, by its target. Raises ArtifactError where one is missing,
    the data is damaged, too large, or an operation is not allowed: no file can make this run other code.
    """
    try:
        return _rebuild(data, tensors, modules)
    except ArtifactError:
        raise
    except GraphError as error:
        raise ArtifactError(f"the saved graph does not fit its tensors: {error}") from error
    except Exception as error:  # whatever torch says of a graph that it cannot read
        raise ArtifactError(f"the saved graph is damaged: {type(error).__name__}: {error}") from error


def _rebuild(
    data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module]
) -> fx.GraphModule:
    root, graph, nodes, placed = nn.Module(), fx.Graph(), dict[str, fx.Node](), set[str]()
    if not isinstance(data["nodes"], list) or len(data["nodes"]) > MOST_NODES:
        raise ArtifactError(f"the saved graph has no list of at most {MOST_NODES} nodes")
    stacks = [require_stack(paths) for paths in data["module_stacks"]]
    for saved in data["nodes"]:
        if saved["op"] == "get_attr" and saved["target"] not in placed:
            _place_tensor(root, saved, tensors)
            placed.add(saved["target"])
        elif saved["op"] == "call_module":
            _place_quantizer(root, saved["target"], modules)
        node = _node_from_json(graph, saved, nodes)
        if "stack" in saved:
            if type(saved["stack"]) is not int or not 0 <= saved["stack"] < len(stacks):
                raise ArtifactError(f"node '{node.name}' of the saved graph has no stack {saved['stack']!r}")
            node.meta["nn_module_stack"] = {str(i): (path, "") for i, path in enumerate(stacks[saved["stack"]])}
        nodes[node.name] = node
    ops = [node.op for node in graph.nodes]
    if ops.count("placeholder") != 1 or ops.count("output") != 1 or ops[-1] != "output":
        raise ArtifactError("the saved graph needs one input and, as its last node, one output")
    graph.lint()
    module = fx.GraphModule(root, graph)
    require_same_globals(module)
    annotate(module, _shape(data["input"]["shape"]), decode_argument({"dtype": data["input"]["dtype"]}, {}))
    if strange := [name for name, node in returned(graph).items() if not is_tensor(node)]:
        raise ArtifactError(f"output '{strange[0]}' of the saved graph is no tensor")
    _require_own_places(module.graph)
    return module.eval()


def _require_own_places(graph: fx.Graph) -> None:
    """Raise ArtifactError for a quantizer that is not on the tensor of the site it is named after."""
    nodes = {quantizer_target(name): site.node for name, site in find_sites(without_quantizers(graph)).items()}
    for node in graph.find_nodes(op="call_module"):
        if nodes.get(str(node.target)) != node.all_input_nodes[0].name:
            raise ArtifactError(f"quantizer '{node.target}' of the saved graph is on no site of that name")


def _shape(sizes: Any) -> list[int | None]:
    """Return the input's sizes, None for the batch."""
    if not isinstance(sizes, list) or not 1 <= len(sizes) <= MOST_SIZES:
        raise ArtifactError(f"the input of the saved graph has no shape of 1 to {MOST_SIZES} sizes")
    for size in sizes:
        if size != BATCH and (type(size) is not int or not 1 <= size <= LARGEST_SIZE):
            raise ArtifactError(f"{size!r} is no size of the saved graph's input: 1 to {LARGEST_SIZE}, or '{BATCH}'")
    return [None if size == BATCH else size for size in sizes]


def _node_from_json(graph: fx.Graph, saved: Mapping[str, Any], nodes: Mapping[str, fx.Node]) -> fx.Node:
    """Add one saved node to ``graph``."""
    op, name = saved["op"], saved["name"]
    if op != "output" or name != "output":
        require_name(name)
    decode = decode_outputs if op == "output" else decode_argument
    args = tuple(decode(argument, nodes) for argument in saved.get("args", ()))
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
        _check_arguments(name, saved["target"], args, kwargs)
        node = graph.create_node("call_function", target, args, kwargs, name=name)
    else:
        raise ArtifactError(f"node '{name}' of the saved graph is no valid '{op}'")
    if node.name != name:
        raise ArtifactError(f"the saved graph has two nodes named '{name}'")
    return node


def _check_arguments(name: str, target: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ArtifactError for keywords that an operator does not have, or for symbolic arithmetic on other things."""
    if target in SYMBOLIC:
        if kwargs or not all(isinstance(a, fx.Node | int | float) for a in args):
            raise ArtifactError(f"node '{name}': {target} takes nodes and numbers only")
        return
    known = decode_target(target)._schema.arguments  # type: ignore[attr-defined]
    if unknown := set(kwargs) - {argument.name for argument in known}:
        raise ArtifactError(f"node '{name}': {target} takes no argument {sorted(unknown)}")
    needed = [argument.name for argument in known if not argument.has_default_value() and not argument.kwarg_only]
    if len(args) < len(needed):
        raise ArtifactError(f"node '{name}': {target} takes {', '.join(needed)} by position")


def _place_tensor(root: nn.Module, saved: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    *parents, name = require_path(saved["target"])
    tensor = _find(tensors, saved["target"], "tensor")
    owner = _owner(root, parents)
    if saved.get("parameter"):
        owner.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=False))
    else:
        owner.register_buffer(name, tensor.detach())


def _place_quantizer(root: nn.Module, target: Any, modules: Mapping[str, nn.Module]) -> None:
    name = require_quantizer_path(target)
    owner = _owner(root, [target.removesuffix(f".{name}")])
    owner.add_module(name, _find(modules, target, "quantizer"))


def _owner(root: nn.Module, parents: list[str]) -> nn.Module:
    """Return the submodule at the path of ``parents``, made where it is missing."""
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _find(mapping: Mapping[str, Any], path: str, kind: str) -> Any:
    if path not in mapping:
        raise ArtifactError(f"the saved graph needs {kind} '{path}', which is missing")
    return mapping[path]

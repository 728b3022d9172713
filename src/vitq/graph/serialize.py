"""A captured graph as plain JSON, saved without pickle; ``rebuild`` reads it without the model's code."""

from typing import Any

from torch import fx, nn

from vitq.errors import ArtifactError, ModelError
from vitq.graph.encoding import encode_argument, encode_outputs, encode_target
from vitq.graph.ops import attribute, value

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


def require_savable(module: fx.GraphModule) -> None:
    """Raise ModelError, before any work, where the model calls an operator that no saved graph may call."""
    for target in dict.fromkeys(node.target for node in module.graph.nodes if node.op == "call_function"):
        try:
            encode_target(target)
        except ArtifactError as error:
            raise ModelError(f"the model could be quantized but not saved: {error}") from error


def _node_to_json(module: fx.GraphModule, node: fx.Node, stacks: dict[tuple[str, ...], int]) -> dict[str, Any]:
    saved: dict[str, Any] = {"op": node.op, "name": node.name}
    if node.op == "call_function":
        saved["target"] = encode_target(node.target)
    elif node.op in ("get_attr", "call_module"):
        saved["target"] = node.target
    if node.op == "get_attr" and isinstance(attribute(module, str(node.target)), nn.Parameter):
        saved["parameter"] = True
    if node.args:
        encode = encode_outputs if node.op == "output" else encode_argument
        saved["args"] = [encode(argument) for argument in node.args]
    if node.kwargs:
        saved["kwargs"] = {name: encode_argument(argument) for name, argument in node.kwargs.items()}
    if stack := node.meta.get("nn_module_stack"):
        saved["stack"] = stacks.setdefault(tuple(path for path, _ in stack.values()), len(stacks))
    return saved

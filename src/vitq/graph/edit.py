"""The one way to change a captured graph: calls, constants and quantizers, each with what later passes read."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import GraphError, did_you_mean
from vitq.graph.grammar import QUANTIZERS
from vitq.graph.ops import attribute, value
from vitq.graph.values import fake_result


def node_named(module: fx.GraphModule, name: str) -> fx.Node:
    """Return the node called ``name``; raise GraphError where there is none."""
    nodes: dict[str, fx.Node] = {node.name: node for node in module.graph.nodes}
    if name not in nodes:
        raise GraphError(f"no node '{name}' in the graph{did_you_mean(name, nodes)}")
    return nodes[name]


def insert_call(
    module: fx.GraphModule, target: Any, args: tuple[Any, ...], *, before: fx.Node, like: fx.Node | None = None
) -> fx.Node:
    """Call ``target`` before a node, as part of the modules that ran ``like`` (by default, that node).

    Nobody reads the new node yet. Its fake value follows from its arguments', where they have one.
    """
    with module.graph.inserting_before(before):
        new = module.graph.call_function(target, args)
    new.meta["nn_module_stack"] = (like or before).meta.get("nn_module_stack")
    entry = _entry(module)
    if isinstance(entry, torch.Tensor) and all(value(node) is not None for node in new.all_input_nodes):
        new.meta["val"] = fake_result(entry.fake_mode, target, *fx.node.map_arg(args, value))  # type: ignore[attr-defined]
    return new


def insert_constant(
    module: fx.GraphModule, name: str, tensor: torch.Tensor, *, before: fx.Node, parameter: bool = False
) -> fx.Node:
    """Read a new buffer, or a frozen parameter, that holds ``tensor``; a taken ``name`` gets a number."""
    names = (name if number == 0 else f"{name}_{number}" for number in range(1_000_000))
    free = next(candidate for candidate in names if not hasattr(module, candidate))
    if parameter:
        module.register_parameter(free, nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(free, tensor)
    with module.graph.inserting_before(before):
        new = module.graph.create_node("get_attr", free)
    entry = _entry(module)
    if isinstance(entry, torch.Tensor):
        with entry.fake_mode:  # type: ignore[attr-defined]
            new.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device=entry.device)
    return new


class Emitter:
    """Insert operations and constants before a node."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self.module, self.node = module, node

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        """Call ``target`` before the node."""
        return insert_call(self.module, target, args, before=self.node)

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        """Read ``tensor`` from a new buffer."""
        name = f"{self.node.name}_constant_{len(list(self.module.buffers()))}"
        return insert_constant(self.module, name, tensor, before=self.node)


def replace(module: fx.GraphModule, node: fx.Node, new: fx.Node, *, keep_name: bool = True) -> None:
    """Let all who read ``node`` read ``new`` and erase ``node``, whose name and metadata ``new`` takes over."""
    name = node.name
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
    if keep_name:
        new.name, new.meta = name, dict(node.meta)


def replace_tensor(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Let ``path`` hold another tensor; who shares the old one keeps it."""
    owner, _, name = path.rpartition(".")
    held = attribute(module, path)
    new = nn.Parameter(tensor, requires_grad=held.requires_grad) if isinstance(held, nn.Parameter) else tensor
    setattr(module.get_submodule(owner), name, new)


@torch.no_grad()
def set_attribute(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Overwrite the parameter or buffer at ``path`` in place, keeping whoever shares it in step."""
    attribute(module, path).copy_(tensor)


def delete_unused_tensors(module: fx.GraphModule) -> None:
    """Delete the parameters and buffers that no node reads."""
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [n for n, _ in (*module.named_parameters(), *module.named_buffers()) if n not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)


def finish(module: fx.GraphModule) -> None:
    """Check the graph and compile it, after one or several changes."""
    module.graph.lint()
    module.recompile()


def quantizer_target(site: str) -> str:
    """Return the submodule path that holds the quantizer of ``site``."""
    return f"{QUANTIZERS}." + site.replace(".", "_").replace("/", "__")


def insert_quantizer(
    module: fx.GraphModule, site: str, node: str, consumers: Iterable[str], quantizer: nn.Module
) -> None:
    """Route the consumers of the tensor at ``node`` through the quantizer of ``site``; its other users stay as is."""
    target, nodes = quantizer_target(site), {n.name: n for n in module.graph.nodes}
    if target in dict(module.named_modules()):
        raise GraphError(f"site '{site}': another site already owns '{target}'; rename one of the two layers")
    module.add_submodule(target, quantizer)
    source = nodes[node]
    with module.graph.inserting_after(source):
        quantized = module.graph.create_node("call_module", target, (source,), name=f"{source.name}_quantized")
    quantized.meta = {"val": value(source), "nn_module_stack": source.meta.get("nn_module_stack")}
    for consumer in consumers:
        nodes[consumer].replace_input_with(source, quantized)


def replace_quantizer(module: fx.GraphModule, site: str, quantizer: nn.Module) -> None:
    """Let ``quantizer`` take the place of the one on ``site``."""
    module.add_submodule(quantizer_target(site), quantizer)


def remove_quantizers(module: fx.GraphModule, sites: Iterable[str]) -> None:
    """Remove the quantizers of ``sites`` from the graph, so that their consumers read the tensors themselves."""
    targets = {quantizer_target(site) for site in sites}
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target in targets:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    for target in targets:
        module.delete_submodule(target)
    module.recompile()  # once: it takes as long as the whole graph is


def inserted_quantizers(module: fx.GraphModule, sites: Iterable[str]) -> dict[str, nn.Module]:
    """Return the quantizers that ``module`` calls, by site."""
    called = {node.target for node in module.graph.nodes if node.op == "call_module"}
    targets = {name: quantizer_target(name) for name in sites}
    return {name: module.get_submodule(target) for name, target in targets.items() if target in called}


def without_quantizers(graph: fx.Graph) -> fx.Graph:
    """Copy ``graph`` with the same node names and no quantizers."""
    bare = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            copies[node] = copies[node.all_input_nodes[0]]
        else:
            copies[node] = bare.node_copy(node, lambda n: copies[n])
    return bare


def _entry(module: fx.GraphModule) -> Any:
    """Return the fake value of the graph's input, None where it has none."""
    return value(next(iter(module.graph.find_nodes(op="placeholder"))))

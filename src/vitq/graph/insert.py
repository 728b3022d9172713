"""Put quantizers into a graph, take them out, and tell which are in it."""

from collections.abc import Mapping

import torch
from torch import fx, nn

from vitq.errors import GraphError
from vitq.graph.ops import attribute, value
from vitq.graph.sites import Site


def quantizer_target(site: str) -> str:
    """Return the submodule path that holds the quantizer of ``site``."""
    return "quantizers." + site.replace(".", "_").replace("/", "__")


def insert_quantizers(module: fx.GraphModule, sites: Mapping[str, Site], quantizers: Mapping[str, nn.Module]) -> None:
    """Route the consumers of each named site through its quantizer; other users of the tensor stay as is."""
    by_name = {node.name: node for node in module.graph.nodes}
    for name, quantizer in quantizers.items():
        site = sites[name]
        target = quantizer_target(name)
        if target in dict(module.named_modules()):
            raise GraphError(f"site '{name}': another site already owns '{target}'; rename one of the two layers")
        module.add_submodule(target, quantizer)
        source = by_name[site.node]
        with module.graph.inserting_after(source):
            quantized = module.graph.create_node("call_module", target, (source,), name=f"{source.name}_quantized")
        quantized.meta = {"val": value(source), "nn_module_stack": source.meta.get("nn_module_stack")}
        for consumer in site.consumers:
            by_name[consumer].replace_input_with(source, quantized)
    module.graph.lint()
    module.recompile()


def bypass(module: fx.GraphModule, site: str) -> None:
    """Remove the quantizer of ``site`` from the graph, so that its consumers read the tensor itself."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == quantizer_target(site):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.delete_submodule(quantizer_target(site))
    module.recompile()


def inserted_quantizers(module: fx.GraphModule, sites: Mapping[str, Site]) -> dict[str, nn.Module]:
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


@torch.no_grad()
def set_attribute(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Overwrite the parameter or buffer at ``path`` in place, keeping whoever shares it in step."""
    attribute(module, path).copy_(tensor)

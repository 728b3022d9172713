"""A copy of a graph that works on integer codes, wherever its operations have them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx, nn

from vitq.errors import ExportError
from vitq.graph import Graph
from vitq.graph.edit import replace as replace_node
from vitq.graph.edit import without_quantizers
from vitq.graph.fold import depends_on_image
from vitq.graph.ops import CONV, LINEAR, MATMUL, is_move, is_op, is_size, value
from vitq.graph.readings import Reading, find_readings
from vitq.integer.besides import besides
from vitq.integer.functions import IntegerNorm, IntegerSoftmax, IntegerSum, IntegerTable, TokensApart
from vitq.integer.modules import IntegerConvolution, IntegerLinear, IntegerProduct
from vitq.integer.products import layer, product
from vitq.integer.replacement import Replacement, Scene
from vitq.quantizers import Quantizer

KINDS = {
    IntegerLinear: "linears",
    IntegerConvolution: "convolutions",
    IntegerProduct: "products of two activations",
    IntegerNorm: "norms",
    IntegerSoftmax: "softmaxes",
    IntegerTable: "activation functions",
    IntegerSum: "residual sums",
}
"""What the executor computes from codes, and how it is called."""

PRODUCTS = tuple(KINDS[kind] for kind in (IntegerLinear, IntegerConvolution, IntegerProduct))
"""Of which there has to be one."""


@dataclass(frozen=True)
class Floating:
    """An operation that stays in floating point: what it is, the site or node that names it, and why it stays."""

    operation: str
    name: str
    reason: str


@dataclass(frozen=True)
class IntegerGraph:
    """The copy that runs, how many operations of each of ``KINDS`` work on integers, and all others in order."""

    module: fx.GraphModule
    counts: Mapping[str, int]
    floating: tuple[Floating, ...]

    @property
    def linears(self) -> int:
        """How many linears multiply integers."""
        return self.counts["linears"]

    @property
    def convolutions(self) -> int:
        """How many convolutions do."""
        return self.counts["convolutions"]

    @property
    def products(self) -> int:
        """How many products of two activations do."""
        return self.counts["products of two activations"]

    def __str__(self) -> str:
        """Return what works on integers and, each kind with its reason and all names, what does not."""
        done = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        names: dict[tuple[str, str], list[str]] = {}
        for left in self.floating:
            names.setdefault((left.operation, left.reason), []).append(left.name)
        lines = [f"  {operation}, {reason}: {', '.join(own)}" for (operation, reason), own in names.items()]
        return "\n".join([f"in integers: {done}", "in floating point:", *lines])


def integer_graph(graph: Graph, weights: Mapping[str, Quantizer]) -> IntegerGraph:
    """Return a copy of ``graph`` that works on integers: products, and in scope ``full`` what stands between them.

    Those are activation functions, softmax, norms and residual sums, where what they read has whole steps of one scale
    (for attention: one per head). ``floating`` names each other operation and says why it stays. Raises ExportError
    where no product is left.
    """
    module = copy.deepcopy(graph.module)
    scene = Scene(module, {graph.sites[name].node: quantizer for name, quantizer in weights.items()})
    readings, names = _readings(module), _names(graph)
    inside = {node for own in readings.values() for reading in own for node in reading.inside}
    counts, floating = dict.fromkeys(KINDS.values(), 0), list[Floating]()
    dependent = depends_on_image(module.graph)
    for node in [n for n in module.graph.nodes if n in dependent and n.op == "call_function"]:
        if is_move(node) or is_size(node) or (node in inside and node not in readings):
            continue
        found = _integer(scene, node, readings.get(node, ()))
        if isinstance(found, str):
            operation = str(getattr(node.target, "__name__", node.target)).split(".")[0]
            floating.append(Floating(operation, names.get(node.name, node.name), found))
            continue
        module.add_submodule(f"integer_{node.name}", found.operation)
        with module.graph.inserting_before(node):
            new = module.graph.call_module(f"integer_{node.name}", found.arguments)
        new.meta["val"] = value(node)
        replace_node(module, node, new, keep_name=False)
        counts[KINDS[type(_counted(found.operation))]] += 1
    if not any(counts[kind] for kind in PRODUCTS):
        raise ExportError("no product of this model has integer codes on both sides, so there is nothing to run")
    module.graph.eliminate_dead_code()
    module.recompile()
    return IntegerGraph(module, counts, tuple(floating))


def _counted(operation: nn.Module) -> nn.Module:
    return operation.ordinary if isinstance(operation, TokensApart) else operation


def _integer(scene: Scene, node: fx.Node, readings: tuple[Reading, ...]) -> Replacement | str:
    if is_op(node, MATMUL):
        return product(scene, node)
    if is_op(node, LINEAR | CONV):
        return layer(scene, node)
    return besides(scene, readings) if readings else "it has no integer form here"


def _readings(module: fx.GraphModule) -> dict[fx.Node, tuple[Reading, ...]]:
    """Return what operations beside products read, by the operation, as if there were no quantizers."""
    own = {node.name: node for node in module.graph.nodes}
    found: dict[fx.Node, tuple[Reading, ...]] = {}
    for bare in find_readings(without_quantizers(module.graph)):
        reading = replace(
            bare,
            source=own[bare.source.name],
            readers=tuple(own[node.name] for node in bare.readers),
            owner=own[bare.owner.name],
            inside=frozenset(own[node.name] for node in bare.inside),
        )
        found[reading.owner] = (*found.get(reading.owner, ()), reading)
    return found


def _names(graph: Graph) -> dict[str, str]:
    """Return for each operation the name of the site that it reads: of a product its own, not another operation's."""
    names: dict[str, str] = {}
    for site in [site for site in graph.sites.values() if not site.is_weight]:
        for operation in (*site.consumers, *(name for name, _ in site.others)):
            names.setdefault(operation, site.name)
    return names

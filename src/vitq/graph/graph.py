"""The captured graph of one model: what the rest of vitq reads and rewrites."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import GraphError, did_you_mean
from vitq.graph.attention import open_attention
from vitq.graph.batch_norms import fold_batch_norms
from vitq.graph.capture import capture as capture_module
from vitq.graph.edit import (
    finish,
    insert_quantizer,
    inserted_quantizers,
    remove_quantizers,
    replace_quantizer,
    without_quantizers,
)
from vitq.graph.masks import deepen_masks
from vitq.graph.ops import attribute, value
from vitq.graph.outputs import Named, returned
from vitq.graph.products import open_products
from vitq.graph.segment import extract
from vitq.graph.serialize import require_savable
from vitq.graph.sites import Site, find_sites
from vitq.graph.slicing import Granularity
from vitq.graph.span import Span


class Graph:
    """One flat graph of ATen operations from x_BCHW to its outputs, with its cuts, sites and quantizers.

    Teacher and student of a run are two such graphs: they share node names, not tensors. Cuts, sites and
    spans are those of the graph as it is given, its quantizers left out.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        bare = without_quantizers(module.graph)
        self.module = module
        self.sites: dict[str, Site] = find_sites(bare)
        self.slicing = Granularity(bare)
        self.quantizers: dict[str, nn.Module] = inserted_quantizers(module, self.sites)

    def __call__(self, x_BCHW: torch.Tensor) -> Any:
        """Run the whole graph: a tensor, or several by name."""
        return self.module(x_BCHW)

    @property
    def outputs(self) -> dict[str, str]:
        """Names of the nodes that are returned, by the name of the output."""
        return {name: node.name for name, node in returned(self.module.graph).items()}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output for one image."""
        nodes = returned(self.module.graph)
        return {name: tuple(int(size) for size in value(node).shape[1:]) for name, node in nodes.items()}

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the nodes where one activation is alive, from the input to the output."""
        return self.slicing.cuts

    @property
    def feature(self) -> str:
        """Name of the cut that holds the penultimate feature."""
        return self.slicing.feature

    def spans(self, granularity: str) -> tuple[Span, ...]:
        """Slice the graph: "layer", "unit", "block", a number of blocks, "stage" or "network"."""
        return self.slicing.spans(granularity)

    def blocks(self) -> dict[str, str]:
        """Return the name of the block in which each site is first read, nothing where that is behind the last."""
        place = {node.name: i for i, node in enumerate(self.module.graph.nodes)}
        spans = self.spans("block")
        readers = {name: place[site.consumers[0]] for name, site in self.sites.items()}
        return {name: next((s.name for s in spans if reader <= place[s.end]), "") for name, reader in readers.items()}

    def segment(self, start: str, end: str, taps: Sequence[str] = (), *, floating: bool = False) -> fx.GraphModule:
        """Return the part from node ``start`` to node ``end`` as a module that shares every parameter.

        With ``taps`` it returns (end, *taps); ``floating`` leaves the quantizers out.
        """
        return extract(self.module, start, end, taps, floating=floating)

    @property
    def compared(self) -> frozenset[str]:
        """Names of the nodes where student and teacher are compared, so that no rewrite may change what they hold."""
        return self.slicing.compared

    def sides(self, start: str, end: str) -> tuple[str, ...]:
        """Nodes that are returned and computed between the cuts ``start`` and ``end``, beside what ``end`` holds.

        No cut counts them as alive, so a segment has to give them beside its end; between other nodes there are none.
        """
        return self.slicing.sides(start, end)

    def to_outputs(self, start: str) -> Named:
        """Return what follows the cut ``start`` as a module that gives, by name, the outputs computed there or behind.

        It shares every parameter. From the first cut they are all the model's outputs.
        """
        names = self.slicing.outputs_from(start)
        first, *taps = names.values()
        return Named(self.segment(start, first, taps), tuple(names))

    def refresh(self) -> None:
        """Find the sites again after a rewrite put operations before one; cuts and spans stay."""
        self.sites = find_sites(without_quantizers(self.module.graph))

    def insert(self, quantizers: Mapping[str, nn.Module], readers: Mapping[str, Sequence[str]] | None = None) -> None:
        """Quantize the named sites for their ``readers`` (by default the site's own consumers).

        Raise GraphError for an unknown or already quantized site.
        """
        for name in quantizers:
            if name not in self.sites:
                raise GraphError(f"no site '{name}' in the graph{did_you_mean(name, self.sites)}")
            if name in self.quantizers:
                raise GraphError(f"site '{name}' is already quantized; remove its quantizer first")
        for name, quantizer in quantizers.items():
            site = self.sites[name]
            insert_quantizer(self.module, name, site.node, (readers or {}).get(name, site.consumers), quantizer)
        finish(self.module)
        self.quantizers |= dict(quantizers)

    def remove(self, *sites: str) -> None:
        """Leave ``sites`` in floating point again; raise GraphError, before any is, where one is not quantized."""
        for site in sites:
            self._require_quantized(site)
        remove_quantizers(self.module, sites)
        for site in dict.fromkeys(sites):
            del self.quantizers[site]

    def replace(self, site: str, quantizer: nn.Module) -> None:
        """Let ``quantizer`` take the place of the one on ``site``; raise GraphError where there is none."""
        self._require_quantized(site)
        replace_quantizer(self.module, site, quantizer)
        self.quantizers[site] = quantizer

    def _require_quantized(self, site: str) -> None:
        if site not in self.quantizers:
            raise GraphError(f"site '{site}' is not quantized{did_you_mean(site, self.quantizers)}")

    def parameter(self, node: str) -> tuple[str, torch.Tensor]:
        """Return path and tensor of the parameter that node ``node`` (a ``get_attr``) reads."""
        for n in self.module.graph.nodes:
            if n.name == node and n.op == "get_attr":
                return str(n.target), attribute(self.module, str(n.target))
        raise GraphError(f"node '{node}' reads no parameter")

    def to(self, device: torch.device) -> None:
        """Move every tensor and quantizer to ``device``; operations that make tensors make them there."""
        self.module.to(device)
        for node in self.module.graph.nodes:
            node.args, node.kwargs = fx.node.map_aggregate(
                (node.args, node.kwargs), lambda a: device if isinstance(a, torch.device) else a
            )
        self.module.recompile()

    def clone(self) -> "Graph":
        """Return a deep copy that shares nothing."""
        twin = Graph.__new__(Graph)
        twin.module = copy.deepcopy(self.module)
        twin.sites = dict(self.sites)
        twin.slicing = self.slicing
        modules = dict(twin.module.named_modules())
        paths = {id(m): p for p, m in self.module.named_modules()}
        twin.quantizers = {name: modules[paths[id(q)]] for name, q in self.quantizers.items()}
        return twin


def capture(model: nn.Module, example_BCHW: torch.Tensor) -> Graph:
    """Capture ``model`` with a dynamic batch, open its fused products, deepen its masks, fold its batch norms.

    The model is not changed. Raises ModelError where ``torch.export`` refuses it, or an artifact could not hold it.
    """
    return Graph(opened(model, example_BCHW))


def opened(model: nn.Module, example_BCHW: torch.Tensor) -> fx.GraphModule:
    """Return the module of ``capture``'s graph."""
    module = capture_module(model, example_BCHW)
    open_attention(module)
    open_products(module)
    deepen_masks(module)
    fold_batch_norms(module)
    require_savable(module)
    return module

"""One graph in which any site can take any of its candidate bits at once: what trials and whole choices run on."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from vitq.activations import CPU_CHUNK, Result, forward_many
from vitq.bits import FLOATING_POINT
from vitq.graph import Graph, Span
from vitq.graph.edit import quantizer_target


class Switch(nn.Module):
    """The quantizers of one site by their bits; ``bits`` says which one works, None leaves the tensor as it is."""

    def __init__(self, quantizers: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.quantizers = nn.ModuleDict({str(bits): quantizer for bits, quantizer in quantizers.items()})
        self.bits: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x̂ at the bits that are chosen."""
        result: torch.Tensor = x if self.bits is None else self.quantizers[str(self.bits)](x)
        return result


class Simulation:
    """A graph, after the rewrites of a recipe, with a switch on every quantized site.

    ``library`` holds the calibrated quantizers of every site that is to be chosen, by bits; other sites keep the
    quantizer that they have. With all switches off the graph computes what the original does.
    """

    def __init__(self, graph: Graph, library: Mapping[int, Mapping[str, nn.Module]], device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.fixed = [site for site in graph.quantizers if not any(site in own for own in library.values())]
        self.switches: dict[str, Switch] = {}
        for site, quantizer in list(graph.quantizers.items()):
            chosen = {bits: own[site] for bits, own in library.items() if site in own}
            self.switches[site] = Switch(chosen or {0: quantizer}).to(device)
            graph.replace(site, self.switches[site])
        self.units: tuple[Span, ...] = graph.spans("unit")
        self.place = {node.name: i for i, node in enumerate(graph.module.graph.nodes)}

    def set(self, bits: Mapping[str, int]) -> None:
        """Switch the named sites to their bits and every other one off; 32 bits are off too."""
        for site, switch in self.switches.items():
            width = bits.get(site)
            switch.bits = None if width == FLOATING_POINT else width

    def choose(self, bits: Mapping[str, int]) -> None:
        """Switch to a whole choice: the sites that are not to be chosen are quantized as they are."""
        self.set({**dict.fromkeys(self.fixed, 0), **bits})

    def reach(self, site: str) -> tuple[int, int]:
        """Return the first and the last unit in which what ``site`` gives is read."""
        target = quantizer_target(site)
        nodes = [n for n in self.graph.module.graph.nodes if n.op == "call_module" and n.target == target]
        readers = [self.place[user.name] for node in nodes for user in node.users]
        ends = [self.place[span.end] for span in self.units]
        found = [next((i for i, end in enumerate(ends) if reader <= end), len(ends) - 1) for reader in readers]
        return min(found), max(found)

    def outputs_behind(self, start: str, end: str | None = None) -> dict[str, str]:
        """Return the outputs computed behind node ``start``, up to node ``end``: nodes by the name of the output."""
        last = len(self.place) if end is None else self.place[end]
        outputs = self.graph.slicing.outputs.items()
        return {name: node for name, node in outputs if self.place[start] < self.place[node] <= last}

    def run(self, module: Callable[[torch.Tensor], Result], x_N: torch.Tensor, images: int) -> tuple[torch.Tensor, ...]:
        """Run ``module`` over what ``images`` images gave so far, on the device."""
        rows = max(len(x_N) // max(images, 1), 1)
        chunk = CPU_CHUNK * rows if self.device.type == "cpu" else None
        return forward_many(module, x_N, self.device, chunk=chunk)

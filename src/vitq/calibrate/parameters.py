"""The parameters of all calibrated quantizers of a graph, read out and put back."""

from collections.abc import Mapping

import torch

from vitq.graph import Graph
from vitq.graph.edit import quantizer_target
from vitq.quantizers import Quantizer


def parameters(graph: Graph) -> dict[str, torch.Tensor]:
    """Return the parameters of all calibrated quantizers, by the path that they have in the graph."""
    return {
        f"{quantizer_target(site)}.{name}": tensor
        for site, quantizer in graph.quantizers.items()
        if isinstance(quantizer, Quantizer) and quantizer.calibrated
        for name, tensor in quantizer.parameters_dict().items()
    }


def set_parameters(graph: Graph, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Give the quantizers of ``graph`` what ``parameters`` returned; those without any stay as they are."""
    by_target: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in tensors.items():
        target, _, name = path.rpartition(".")
        by_target.setdefault(target, {})[name] = tensor.to(device)
    for site, quantizer in graph.quantizers.items():
        assert isinstance(quantizer, Quantizer)
        if own := by_target.get(quantizer_target(site)):
            quantizer.set_parameters(**own)

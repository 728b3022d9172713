"""The tensors of an artifact: weights as packed codes, parameters of quantizers, and what stays in floating point."""

from collections.abc import Mapping

import torch

from vitq.artifact.schema import SavedSite
from vitq.graph import Graph
from vitq.graph.edit import quantizer_target
from vitq.quantizers import Format, Quantizer, make_quantizer, pack, unpack

CODES = ".codes"
STORED = (torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types of tensors that an artifact has: vitq writes models in float32, with constants of the other types."""


def describe_sites(graph: Graph, weights: Mapping[str, Quantizer]) -> dict[str, SavedSite]:
    """Describe the activation quantizers of ``graph`` and the frozen ``weights``, by site name."""
    sites: dict[str, SavedSite] = {}
    for name, site in graph.sites.items():
        quantizer = weights.get(name) or graph.quantizers.get(name)
        if isinstance(quantizer, Quantizer):
            path, tensor = graph.parameter(site.node) if site.is_weight else (None, None)
            sites[name] = SavedSite(
                role=str(site.role),
                format=quantizer.format.to_dict(),
                axis=quantizer.axis,
                module=quantizer_target(name),
                weight=path,
                shape=None if tensor is None else tuple(tensor.shape),
            )
    return sites


@torch.no_grad()
def freeze_weights(graph: Graph) -> dict[str, Quantizer]:
    """Replace every quantized weight by the value of its codes, take its quantizer out and return those by site."""
    weights: dict[str, Quantizer] = {}
    for name, site in graph.sites.items():
        quantizer = graph.quantizers.get(name)
        if site.is_weight and isinstance(quantizer, Quantizer):
            tensor = graph.parameter(site.node)[1]
            tensor.copy_(quantizer.decode(quantizer.encode(tensor)))
            weights[name] = quantizer
    graph.remove(*weights)
    return weights


def packed(graph: Graph, weights: Mapping[str, Quantizer], sites: Mapping[str, SavedSite]) -> dict[str, torch.Tensor]:
    """Return the tensors of an artifact by name, in order."""
    used = {str(node.target) for node in graph.module.graph.nodes if node.op == "get_attr"}
    state = graph.module.state_dict()
    tensors = {path: tensor.detach().cpu().contiguous() for path, tensor in state.items() if path in used}
    for name, site in sites.items():
        quantizer = weights.get(name) or graph.quantizers[name]
        assert isinstance(quantizer, Quantizer)
        if site.weight is not None:
            codes = quantizer.encode(state[site.weight]).cpu()
            del tensors[site.weight]
            tensors[f"{site.weight}{CODES}"] = pack(codes, quantizer.format.bits)
        for key, value in quantizer.parameters_dict().items():
            tensors[f"{site.module}.{key}"] = value.cpu().contiguous()
    return dict(sorted(tensors.items()))


def unpacked(
    stored: Mapping[str, torch.Tensor], sites: Mapping[str, SavedSite], quantizers: Mapping[str, Quantizer]
) -> dict[str, torch.Tensor]:
    """Give ``quantizers`` their parameters and return the tensors of the graph, weights as values of their codes.

    Raises ValueError or LookupError where the tensors are not those of ``sites``.
    """
    for path, tensor in stored.items():
        if tensor.dtype not in STORED:
            raise ValueError(f"tensor '{path}' is of type {str(tensor.dtype).removeprefix('torch.')}")
    tensors = dict(stored)
    for name, quantizer in quantizers.items():
        prefix = f"{sites[name].module}."
        quantizer.set_parameters(**{k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    for name, quantizer in quantizers.items():
        site = sites[name]
        if site.weight:
            if quantizer.places_P is not None:
                raise ValueError(f"'{name}' is a weight, which has no tokens with parameters of their own")
            codes = tensors.pop(f"{site.weight}{CODES}")
            tensors[site.weight] = _decode(name, quantizer, codes, site.shape or ())
    return tensors


def make_site_quantizer(name: str, site: SavedSite) -> Quantizer:
    """Return the quantizer of a saved site, without parameters; ValueError where its module is not the site's own."""
    if site.module != quantizer_target(name):
        raise ValueError(f"site '{name}': module '{site.module}' where '{quantizer_target(name)}' belongs")
    quantizer = make_quantizer(Format.from_dict(site.format), site.axis)
    quantizer.site = name
    return quantizer


def _decode(name: str, quantizer: Quantizer, codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    for parameter in quantizer.codec.parameters:
        found, expected = tuple(getattr(quantizer, parameter.name).shape), quantizer.shape_of(parameter, shape)
        if found != expected:
            raise ValueError(f"'{name}' has {parameter.name} of shape {found}, its weight needs {expected}")
    return quantizer.decode(unpack(codes, quantizer.format.bits, shape))

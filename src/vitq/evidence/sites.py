"""The error of every quantized tensor alone, and for the worst of them their values and the grid that they fall on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from vitq.activations import SegmentSites, sites_by_segment, walk
from vitq.evidence.schema import Distribution, SiteError
from vitq.graph import Graph
from vitq.quantizers import Quantizer
from vitq.quantizers.tokens import others

BINS = 60
VALUES = 1 << 14
"""Values of a slice that are kept for its histogram."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one site: its error, and values of its worst slice with the place of one of them."""

    name: str
    quantizer: Quantizer
    error: float
    values: torch.Tensor
    shape: tuple[int, ...]
    place: tuple[int, ...]
    slice: str


@torch.no_grad()
def seen_site(name: str, quantizer: Quantizer, x: torch.Tensor) -> Seen:
    """Return what ``quantizer`` makes of the tensor ``x`` of its site."""
    x = x.float()
    squared = (quantizer(x) - x).square()
    error = float(squared.sum(dtype=torch.float64) / x.square().sum(dtype=torch.float64).clamp(min=1e-12))
    places_P = quantizer.places_P  # values and grid are those of ordinary tokens
    x, squared = (t if places_P is None else others(t, places_P) for t in (x, squared))
    kept = "" if places_P is None else f"all tokens but {len(places_P)} kept apart"
    words = kept or "all values"
    place, own = [0] * x.ndim, x
    if quantizer.axis is not None:
        axis = quantizer.axis % x.ndim
        worst = int(squared.movedim(axis, 0).flatten(1).sum(1).argmax())
        place[axis], own = worst, x.select(axis, worst)
        words = f"{quantizer.format.granularity.kind if axis else 'output channel'} {worst}, the worst"
        words = f"{words}; {kept}" if kept else words
    values = own.flatten()
    step = max(len(values) // VALUES, 1)
    first = quantizer.axis is not None and quantizer.axis % x.ndim == 0  # of a weight, also counted from behind
    shape = tuple(x.shape) if first else (1, *x.shape[1:])
    return Seen(name, quantizer, error, values[::step].cpu().clone(), shape, tuple(place), words)


def seen_weights(graph: Graph) -> dict[str, Seen]:
    """Return what is seen of the weights of ``graph`` while their quantizers are on them, before they are frozen."""
    found = {}
    for name, site in graph.sites.items():
        quantizer = graph.quantizers.get(name)
        if site.is_weight and isinstance(quantizer, Quantizer) and quantizer.calibrated:
            found[name] = seen_site(name, quantizer, graph.parameter(site.node)[1])
    return found


def seen_activations(graph: Graph, images_NCHW: torch.Tensor, device: torch.device) -> dict[str, Seen]:
    """Return what is seen of every quantized activation on some images, each on what comes in without quantizers."""
    quantizers = {
        name: q
        for name, q in graph.quantizers.items()
        if isinstance(q, Quantizer) and q.calibrated and not graph.sites[name].is_weight
    }
    segments: tuple[SegmentSites, ...] = sites_by_segment(graph, lambda site: site.name in quantizers)
    found: dict[str, Seen] = {}
    for _, tensors in walk(graph, images_NCHW, segments, device):
        for name, x in tensors.items():
            found[name] = seen_site(name, quantizers[name], x)
    return found


def site_errors(graph: Graph, seen: Mapping[str, Seen]) -> tuple[SiteError, ...]:
    """Return the error of each site in the order of the graph."""
    blocks = graph.blocks()
    return tuple(
        SiteError(
            site=name,
            role=str(site.role),
            block=blocks[name],
            bits=seen[name].quantizer.format.bits,
            format=format_words(seen[name].quantizer),
            error=float(f"{seen[name].error:.4g}"),
        )
        for name, site in graph.sites.items()
        if name in seen
    )


def format_words(quantizer: Quantizer) -> str:
    """Return a format for people: ``affine symmetric, per channel``, and whether tokens are kept apart."""
    form = quantizer.format
    return f"{form.name}{' symmetric' if form.symmetric else ''}, per {form.granularity}{tokens_apart(quantizer)}"


def tokens_apart(quantizer: Quantizer) -> str:
    """Say behind a format how many tokens have parameters of their own; nothing where none have."""
    return "" if quantizer.places_P is None else f", {len(quantizer.places_P)} tokens apart"


def worst(seen: Iterable[Seen], count: int) -> tuple[Distribution, ...]:
    """Return the values and the grids of the sites of greatest error."""
    ranked = sorted((one for one in seen if one.error > 0), key=lambda one: (-one.error, one.name))
    return tuple(distribution(one) for one in ranked[:count])


def distribution(seen: Seen) -> Distribution:
    """Return the histogram of what was seen of a site, and every value that its codes have there."""
    values = seen.values[seen.values.isfinite()]
    low, high = (float(end) for end in values.aminmax()) if len(values) else (0.0, 1.0)
    high = high if high > low else low + 1e-6
    counts = torch.histc(values, BINS, low, high).int().tolist()
    return Distribution(
        site=seen.name,
        slice=seen.slice,
        low=_short(low),
        high=_short(high),
        counts=tuple(counts),
        grid=grid(seen.quantizer.parts[0], seen.shape, seen.place),
    )


def grid(quantizer: Quantizer, shape: tuple[int, ...], place: tuple[int, ...]) -> tuple[float, ...]:
    """Return the values of all codes at one place of a tensor of ``shape``, in order and each once."""
    values = set()
    for code in range(quantizer.format.qmax + 1):
        codes = torch.full(shape, code, dtype=torch.uint8, device=quantizer.device)
        values.add(_short(float(quantizer.decode(codes)[place])))
    return tuple(sorted(values))


def _short(value: float) -> float:
    return float(f"{value:.5g}")

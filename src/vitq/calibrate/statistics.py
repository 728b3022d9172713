"""The statistics pass: the floating-point tensors of one segment's sites at a time, over all images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from vitq.errors import CalibrationError
from vitq.graph import Graph, Site, Span

CHUNK = 16
"""Images that run at once."""


@dataclass(frozen=True)
class SegmentSites:
    """A segment and the activation sites whose consumers run inside it."""

    span: Span
    sites: tuple[Site, ...]


def sites_by_segment(graph: Graph, wanted: Callable[[Site], bool]) -> tuple[SegmentSites, ...]:
    """Assign every activation site that is ``wanted`` to the segment of its first consumer."""
    place = {node.name: i for i, node in enumerate(graph.module.graph.nodes)}
    spans = graph.spans("unit")
    owned: list[list[Site]] = [[] for _ in spans]
    for site in graph.sites.values():
        if site.is_weight or not wanted(site):
            continue
        first = min(place[consumer] for consumer in site.consumers)
        index = next(i for i, span in enumerate(spans) if first <= place[span.end])
        owned[index].append(site)
    return tuple(SegmentSites(span, tuple(sites)) for span, sites in zip(spans, owned, strict=True))


@torch.no_grad()
def walk(
    graph: Graph, images_NCHW: torch.Tensor, segments: Sequence[SegmentSites], device: torch.device
) -> Iterator[tuple[SegmentSites, Mapping[str, torch.Tensor]]]:
    """Yield each segment with the tensors of its sites, by site name, without any quantizer.

    Only one segment's tensors and its input are alive at a time; what follows the last site is not run.
    """
    last = max((i for i, segment in enumerate(segments) if segment.sites), default=-1)
    current = images_NCHW
    for segment in segments[: last + 1]:
        nodes = tuple(dict.fromkeys(site.node for site in segment.sites))
        module = graph.segment(segment.span.start, segment.span.end, nodes, floating=True)
        outputs: list[torch.Tensor] = []
        taps: list[list[torch.Tensor]] = [[] for _ in nodes]
        for chunk in current.split(CHUNK):
            result = module(chunk.to(device))
            end, *rest = result if nodes else (result,)
            outputs.append(end)
            for kept, tensor in zip(taps, rest, strict=True):
                kept.append(tensor)
        by_node = {node: torch.cat(parts) for node, parts in zip(nodes, taps, strict=True)}
        del taps
        tensors = {site.name: by_node.pop(site.node) for site in segment.sites}
        yield segment, tensors
        del tensors
        current = torch.cat(outputs)


def require_usable(name: str, x: torch.Tensor, *, weight: bool = False, may_be_zero: bool = False) -> None:
    """Raise CalibrationError where a site's tensor is empty, not finite or, unless it may be, all zero."""
    if x.numel() == 0:
        raise CalibrationError(f"site '{name}': its calibration tensor is empty; give more images")
    low, high = (float(end) for end in x.aminmax())
    if not (low > -torch.inf and high < torch.inf):
        cause = "check the checkpoint" if weight else "check the checkpoint and the preprocessing"
        raise CalibrationError(f"site '{name}': NaN or infinity before anything is quantized; {cause}")
    if low == high == 0.0 and not (weight or may_be_zero):
        raise CalibrationError(
            f"site '{name}': every value is 0 on all calibration images; check the images and the checkpoint"
        )


def dead_channels(x: torch.Tensor, axis: int) -> int:
    """Return how many slices of ``x`` along ``axis`` hold one single value."""
    rows = x.movedim(axis, 0).flatten(1)
    low, high = rows.aminmax(dim=1)
    return int((low == high).sum())

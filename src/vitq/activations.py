"""The one pass of images through a part of a model: in chunks, with taps, and what is kept of it between parts."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vitq.graph import Graph, Site, Span
from vitq.graph.outputs import Outputs, as_outputs

Forward = Callable[[torch.Tensor], torch.Tensor]
Result = torch.Tensor | tuple[torch.Tensor, ...]
"""What a segment gives: the tensor at its end, or that and its taps."""

CPU_CHUNK = 16
"""Images at a time on a CPU: 1.4 times as fast as 64, whose activations do not fit what malloc keeps at hand."""
GPU_CHUNK = 64


def forward_all(module: nn.Module | Forward, x_N: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Run ``module`` over all N inputs in chunks on ``device``; the result has x's dtype and device."""
    return forward_many(lambda chunk: module(chunk).to(x_N.dtype), x_N, device)[0]


def forward_outputs(
    model: Callable[[torch.Tensor], torch.Tensor | Outputs], x_N: torch.Tensor, device: torch.device
) -> Outputs:
    """Run a model, or its end, over all N inputs in chunks on ``device``; its outputs by name, in float32 beside x."""
    names = list[str]()

    def run(chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = as_outputs(model(chunk))
        names[:] = found
        return tuple(y.to(chunk.dtype) for y in found.values())

    parts = forward_many(run, x_N, device)
    return dict(zip(names, parts, strict=True))


@torch.no_grad()
def forward_many(
    function: Callable[[torch.Tensor], Result],
    x_N: torch.Tensor,
    device: torch.device,
    *,
    chunk: int | None = None,
    cache_device: torch.device | None = None,
) -> tuple[torch.Tensor, ...]:
    """Run ``function`` over all N inputs in chunks on ``device``; results keep their dtype and lie on ``cache_device``.

    ``chunk``: inputs at a time, without it what suits the device; ``cache_device``: without it, x's. Results of chunks
    follow each other: a tensor of windows has several rows per image.
    """
    batch = chunk or (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK)
    results: list[_Rows] = []
    for chunk_B in x_N.split(batch):
        parts = outputs(function(chunk_B.to(device).float()))
        if not results:
            results = [_Rows(part, len(x_N) / len(chunk_B), cache_device or x_N.device) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result.add(part)
        del parts, part  # else they are still there while the next chunk is computed
    return tuple(result.all() for result in results)


class _Rows:
    """Rows that come chunk by chunk, in one tensor that has room for all where every chunk gives equally many."""

    def __init__(self, first: torch.Tensor, chunks: float, cache_device: torch.device) -> None:
        rows = max(round(len(first) * chunks), len(first))
        self.rows, self.filled = torch.empty((rows, *first.shape[1:]), dtype=first.dtype, device=cache_device), 0

    def add(self, part: torch.Tensor) -> None:
        """Put ``part`` behind what is there."""
        end = self.filled + len(part)
        if end > len(self.rows):
            self.rows = torch.cat((self.rows[: self.filled], part.to(self.rows.device)))
        else:
            self.rows[self.filled : end] = part.to(self.rows.device)
        self.filled = end

    def all(self) -> torch.Tensor:
        """Return what was put there."""
        return self.rows if self.filled == len(self.rows) else self.rows[: self.filled].clone()


def outputs(result: Result) -> tuple[torch.Tensor, ...]:
    """Return what a segment gave as a tuple: its end, then its taps."""
    return result if isinstance(result, tuple) else (result,)


def first_output(module: nn.Module) -> Forward:
    """Return ``module`` without its taps."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        return outputs(module(x))[0]

    return forward


@dataclass(frozen=True)
class SegmentSites:
    """A segment and the activation sites whose consumers run inside it."""

    span: Span
    sites: tuple[Site, ...]


def sites_by_segment(graph: Graph, wanted: Callable[[Site], bool]) -> tuple[SegmentSites, ...]:
    """Assign every activation site that is ``wanted`` to the segment of its first consumer."""
    position = {node.name: i for i, node in enumerate(graph.module.graph.nodes)}
    spans = graph.spans("unit")
    owned: list[list[Site]] = [[] for _ in spans]
    for site in graph.sites.values():
        if site.is_weight or not wanted(site):
            continue
        first = min(position[consumer] for consumer in site.consumers)
        index = next(i for i, span in enumerate(spans) if first <= position[span.end])
        owned[index].append(site)
    return tuple(SegmentSites(span, tuple(sites)) for span, sites in zip(spans, owned, strict=True))


def walk(
    graph: Graph, images_NCHW: torch.Tensor, segments: Sequence[SegmentSites], device: torch.device
) -> Iterator[tuple[SegmentSites, Mapping[str, torch.Tensor]]]:
    """Yield each segment with the tensors of its sites, by site name, without any quantizer.

    Only one segment's tensors and its output are alive at a time: they are gone when the next is asked for. What
    follows the last site is not run. The graph may be changed behind the segment that was yielded.
    """
    last = max((i for i, segment in enumerate(segments) if segment.sites), default=-1)
    current = images_NCHW
    for segment in segments[: last + 1]:
        nodes = tuple(dict.fromkeys(site.node for site in segment.sites))
        module = graph.segment(segment.span.start, segment.span.end, nodes, floating=True)
        current, *taps = forward_many(module, current, device, chunk=CPU_CHUNK, cache_device=device)
        by_node = dict(zip(nodes, taps, strict=True))
        tensors = {site.name: by_node[site.node] for site in segment.sites}
        del taps, by_node
        yield segment, tensors
        tensors.clear()


@dataclass(frozen=True)
class StudentTeacher:
    """The same images at one cut, on the quantized prefix (``student``) and in floating point (``teacher``)."""

    student_N: torch.Tensor
    teacher_N: torch.Tensor


class ActivationCache:
    """Cached activations at the cuts where segments to come begin, each computed from the nearest cut before it."""

    def __init__(self, student: Graph, teacher: Graph, images_NCHW: torch.Tensor, device: torch.device) -> None:
        self.student, self.teacher, self.device = student, teacher, device
        self.position = {cut: i for i, cut in enumerate(teacher.cuts)}
        self.pairs = {teacher.cuts[0]: StudentTeacher(images_NCHW, images_NCHW)}

    def at(self, cut: str) -> StudentTeacher:
        """Return the activations at ``cut`` and keep them."""
        if cut not in self.pairs:
            nearest = max(
                (c for c in self.pairs if self.position[c] < self.position[cut]), key=self.position.__getitem__
            )
            self.pairs[cut] = self.between(nearest, cut, self.pairs[nearest])
        return self.pairs[cut]

    def between(self, start: str, end: str, pair: StudentTeacher) -> StudentTeacher:
        """Return ``pair`` after running both graphs from node ``start`` to node ``end``."""
        student, teacher = self.student.segment(start, end), self.teacher.segment(start, end)
        return StudentTeacher(
            forward_all(student, pair.student_N, self.device), forward_all(teacher, pair.teacher_N, self.device)
        )

    def evict(self, span: Span, after: StudentTeacher | None, to_come: Collection[str]) -> None:
        """Forget what the training of ``span`` made stale, and what lies at no cut ``to_come`` but the input.

        ``after`` holds the activations at the span's end, where they are known.
        """
        first = self.teacher.cuts[0]
        fresh = {c: pair for c, pair in self.pairs.items() if self.position[c] <= self.position[span.cut]}
        if after is not None:
            fresh[span.end] = after
        needed = {c: pair for c, pair in fresh.items() if c == first or c in to_come}
        last = max(fresh, key=self.position.__getitem__)
        self.pairs = {**needed, last: fresh[last]} if to_come else {}

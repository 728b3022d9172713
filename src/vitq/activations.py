"""Cached activations at one cut, computed in chunks so that memory stays bounded."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn

from vitq.graph import Graph, Span

Forward = Callable[[torch.Tensor], torch.Tensor]
CPU_CHUNK = 16
"""Images at a time on a CPU: 1.4 times as fast as 64, whose activations do not fit what malloc keeps at hand."""


def forward_all(module: nn.Module | Forward, x_N: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Run ``module`` over all N inputs in chunks on ``device``; the result has x's dtype and home."""
    return forward_many(lambda chunk: (module(chunk).to(x_N.dtype),), x_N, device)[0]


@torch.no_grad()
def forward_many(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], x_N: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Run ``function`` over all N inputs in chunks on ``device``; each result has its own dtype and x's home.

    A tensor of windows has several rows per image, so a result may have a multiple of N rows.
    """
    batch = min(CPU_CHUNK if device.type == "cpu" else 64, len(x_N))
    first = function(x_N[:batch].to(device).float())
    rows = [len(part) // batch for part in first]
    results = tuple(
        torch.empty((len(x_N) * n, *part.shape[1:]), dtype=part.dtype, device=x_N.device)
        for n, part in zip(rows, first, strict=True)
    )
    for start in range(0, len(x_N), batch):
        parts = first if start == 0 else function(x_N[start : start + batch].to(device).float())
        for result, n, part in zip(results, rows, parts, strict=True):
            result[start * n : start * n + len(part)] = part.to(result.device)
    return results


def first_output(module: nn.Module) -> Forward:
    """Return ``module`` without its taps."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor | tuple[torch.Tensor, ...] = module(x)
        return result[0] if isinstance(result, tuple) else result

    return forward


@dataclass(frozen=True)
class Pair:
    """The same images at one cut, on the quantized prefix (``student``) and in floating point (``teacher``)."""

    student_N: torch.Tensor
    teacher_N: torch.Tensor


class Prefix:
    """Cached activations at the cuts where segments to come begin, each computed from the nearest cut before it."""

    def __init__(self, student: Graph, teacher: Graph, images_NCHW: torch.Tensor, device: torch.device) -> None:
        self.student, self.teacher, self.device = student, teacher, device
        self.place = {cut: i for i, cut in enumerate(teacher.cuts)}
        self.pairs = {teacher.cuts[0]: Pair(images_NCHW, images_NCHW)}

    def at(self, cut: str) -> Pair:
        """Return the activations at ``cut`` and keep them."""
        if cut not in self.pairs:
            nearest = max((c for c in self.pairs if self.place[c] < self.place[cut]), key=self.place.__getitem__)
            self.pairs[cut] = self.between(nearest, cut, self.pairs[nearest])
        return self.pairs[cut]

    def between(self, start: str, end: str, pair: Pair) -> Pair:
        """Return ``pair`` after running both graphs from node ``start`` to node ``end``."""
        student, teacher = self.student.segment(start, end), self.teacher.segment(start, end)
        return Pair(
            forward_all(student, pair.student_N, self.device), forward_all(teacher, pair.teacher_N, self.device)
        )

    def trained(self, span: Span, after: Pair | None, to_come: Collection[str]) -> None:
        """Forget what the training of ``span`` made stale, and what lies at no cut ``to_come`` but the input.

        ``after`` holds the activations at the span's end, where they are known.
        """
        first = self.teacher.cuts[0]
        fresh = {c: pair for c, pair in self.pairs.items() if self.place[c] <= self.place[span.cut]}
        if after is not None:
            fresh[span.end] = after
        needed = {c: pair for c, pair in fresh.items() if c == first or c in to_come}
        last = max(fresh, key=self.place.__getitem__)
        self.pairs = {**needed, last: fresh[last]} if to_come else {}

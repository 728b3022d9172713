"""Slicings of a model into segments, to choose from: uniform granularities and merges that follow the outliers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vitq.errors import RecipeError
from vitq.graph import Graph, Span
from vitq.reconstruct.slicing.outliers import Outliers
from vitq.reconstruct.slicing.schedule import Piece, plan


@dataclass(frozen=True)
class Slicing:
    """One candidate: its name and its segments from the input to the output."""

    name: str
    pieces: tuple[Piece, ...]


def candidates(
    graph: Graph, profile: Sequence[Outliers], uniform: Sequence[str], quantiles: Sequence[float], longest: str
) -> tuple[Slicing, ...]:
    """Return the different slicings of ``graph``, finest first; equal ones appear once.

    ``uniform`` names granularities; every quantile of the outliers' shares gives one adaptive slicing, whose merges
    stay inside the spans of granularity ``longest`` (thus inside a stage).
    """
    found: dict[tuple[tuple[str, str], ...], Slicing] = {}
    shares = torch.tensor([outliers.share for outliers in profile])
    wanted = [(name, tuple(piece.span for piece in plan(graph, [name]))) for name in uniform]
    wanted += [
        (f"outliers-{quantile:g}", adaptive(graph, profile, float(shares.quantile(quantile)), longest))
        for quantile in quantiles
    ]
    for name, spans in wanted:
        key = tuple((span.start, span.end) for span in spans)
        found.setdefault(key, Slicing(name, tuple(Piece(name, span) for span in spans)))
    if not found:
        raise RecipeError("no slicing to choose from: name granularities or quantiles of outliers")
    return tuple(sorted(found.values(), key=lambda slicing: -len(slicing.pieces)))


def adaptive(graph: Graph, profile: Sequence[Outliers], threshold: float, longest: str) -> tuple[Span, ...]:
    """Merge a unit with the next one while the outliers between them are above ``threshold``.

    Source: OAS (ICML 2024) chooses granularity by outliers; merging where they are strong, so that no error is
    compared there, is vitq's reading.
    """
    share = {outliers.cut: outliers.share for outliers in profile}
    position = {cut: i for i, cut in enumerate(graph.cuts)}
    limits = {position[span.end] for span in graph.spans(longest)}
    merged: list[list[Span]] = []
    for unit in graph.spans("unit"):
        joins = merged and share[merged[-1][-1].end] > threshold and position[merged[-1][-1].end] not in limits
        if joins:
            merged[-1].append(unit)
        else:
            merged.append([unit])
    return tuple(_joined(units) for units in merged)


def _joined(units: Sequence[Span]) -> Span:
    first, more = units[0], len(units) - 1
    return Span(f"{first.name}+{more}" if more else first.name, first.start, units[-1].end, first.cut)

"""Schedules: which segments are reconstructed, in which order."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vitq.errors import RecipeError
from vitq.graph import Graph, Span
from vitq.registry import Registry

Schedule = Callable[[Graph], tuple[Span, ...]]
Order = Literal["level", "fine_to_coarse"]
GRANULARITIES = ("layer", "unit", "block", "stage", "network")
SCHEDULES: Registry[Schedule] = Registry("schedule", reserved=GRANULARITIES)
"""Schedules that are more than one uniform granularity; ``Graph.spans`` knows those, and numbers of blocks."""


def register_schedule(name: str) -> Callable[[Schedule], Schedule]:
    """Register a schedule that is more than one uniform granularity; raise RecipeError where its name is taken."""
    return SCHEDULES.register(name)


def check_name(name: str) -> None:
    """Raise ValueError where ``name`` is no granularity, number of blocks or registered schedule."""
    if not re.fullmatch("[1-9][0-9]{0,5}", name):
        try:
            SCHEDULES.option(name)
        except ValueError as error:
            raise ValueError(f"{error} (a number means that many blocks)") from None


@dataclass(frozen=True)
class Piece:
    """One segment to reconstruct, and the name of the level that it belongs to."""

    level: str
    span: Span


def plan(graph: Graph, schedule: Sequence[str], order: Order = "level") -> tuple[Piece, ...]:
    """Return the segments to reconstruct one after another; each starts from what those before it learnt.

    Each entry of ``schedule`` is a level: a granularity ("layer", "unit", "block", a number of blocks, "stage",
    "network") or a registered schedule. Order "level" sweeps the whole model once per level; "fine_to_coarse" follows
    the segments of a level by the coarser one that holds them, as soon as they are done. Raises RecipeError for an
    unknown name or levels that do not nest.
    """
    levels = [(name, _spans(graph, name)) for name in schedule]
    if order == "level":
        return tuple(Piece(name, span) for name, spans in levels for span in spans)
    return fine_to_coarse(graph.cuts, levels)


def _spans(graph: Graph, name: str) -> tuple[Span, ...]:
    try:
        check_name(name)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return SCHEDULES[name](graph) if name in SCHEDULES else graph.spans(name)


def fine_to_coarse(cuts: Sequence[str], levels: Sequence[tuple[str, tuple[Span, ...]]]) -> tuple[Piece, ...]:
    """Return the spans of nested levels, finest level first, in post-order: children, then what they merge into.

    A span that a finer level has already is not repeated. Raises RecipeError where a span of one level is not made of
    whole spans of the level before it. Source: PFCR (arXiv 2412.14633); post-order, which keeps the quantized inputs
    up to date, is vitq's reading of its merging.
    """
    position = {cut: i for i, cut in enumerate(cuts)}
    done: list[list[Piece]] = []
    for name, spans in levels:
        if any(span.start not in position or span.end not in position for span in spans):
            raise RecipeError(f"order 'fine_to_coarse' needs levels between cuts; '{name}' begins inside a unit")
        merged: list[list[Piece]] = []
        for span in spans:
            inside = [g for g in done if position[g[-1].span.start] >= position[span.start]]
            inside = [g for g in inside if position[g[-1].span.end] <= position[span.end]]
            ends = (inside[0][-1].span.start, inside[-1][-1].span.end) if inside else ()
            if done and ends != (span.start, span.end):
                raise RecipeError(
                    f"order 'fine_to_coarse' needs nested levels; '{span.name}' of '{name}' is not made "
                    "of whole segments of the level before it"
                )
            own = [] if len(inside) == 1 else [Piece(name, span)]
            merged.append([piece for group in inside for piece in group] + own)
        done = merged
    return tuple(piece for group in done for piece in group)

"""Schedules: which segments are reconstructed, in which order."""

from collections.abc import Callable, Sequence

from vitq.errors import RecipeError, did_you_mean
from vitq.graph import Graph, Span

Schedule = Callable[[Graph], tuple[Span, ...]]
SCHEDULES: dict[str, Schedule] = {}


def register_schedule(name: str) -> Callable[[Schedule], Schedule]:
    """Register a schedule that is more than one uniform granularity."""

    def register(schedule: Schedule) -> Schedule:
        SCHEDULES[name] = schedule
        return schedule

    return register


def levels(graph: Graph, schedule: Sequence[str]) -> tuple[tuple[str, tuple[Span, ...]], ...]:
    """Return (name, spans) per level; a level sweeps the whole model and starts from what the level before learnt.

    Each entry is a granularity ("layer", "unit", "block", a number of blocks, "stage", "network") or a registered
    schedule. Raises RecipeError for an unknown name.
    """
    return tuple((name, _spans(graph, name)) for name in schedule)


def _spans(graph: Graph, name: str) -> tuple[Span, ...]:
    if name in SCHEDULES:
        return SCHEDULES[name](graph)
    try:
        return graph.spans(name)
    except RecipeError as error:
        options = ("layer", "unit", "block", "stage", "network", *SCHEDULES)
        raise RecipeError(
            f"schedule '{name}' is unknown{did_you_mean(name, options)} (a number means that many blocks)"
        ) from error

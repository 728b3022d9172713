"""Overrides: ``reconstruct.steps=500`` changes one option of one step, or says which key was meant."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.document import read_yaml
from vitq.recipes.entries import REMOVE, Entry, build, merge, occurrences
from vitq.recipes.known import known_steps
from vitq.recipes.schema import INDEX, one_of, option_keys, shorten
from vitq.run.limits import DEEPEST


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` texts, values as YAML (``500``, ``4e-5``, ``[unit, block]``); raise RecipeError."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"'{shorten(assignment)}' is no override; write key=value as in reconstruct.steps=500")
        overrides[key.strip()] = read_yaml(value, f"override '{shorten(assignment)}'")
    return overrides


def apply_overrides(entries: Sequence[Entry], overrides: Mapping[str, Any], where: str) -> tuple[Entry, ...]:
    """Return the entries with dotted keys set, in the order given.

    ``step.key`` changes every step of that name; where a recipe has a step several times, ``step.1.key``
    is the second. Keys may go deeper, also by position into a list. A mapping as value is merged in depth.
    A step set to ``remove`` is left out. Raises RecipeError for an unknown key, naming the nearest valid
    one, and for a wrong value.
    """
    changed = list(entries)
    for key, value in overrides.items():
        places, path = _address(changed, key, where)
        if not path and value == REMOVE:
            changed = [entry for place, entry in enumerate(changed) if place not in places]
            continue
        if not path and not isinstance(value, Mapping):
            keys = ", ".join(option_keys(known_steps()[changed[places[0]].name]))
            raise RecipeError(f"{where}: '{key}' is a step; set one of its keys ({keys}) or {key}={REMOVE}")
        for place in places:
            _check_exists(changed, place, path, where)
            changed[place] = merge(changed[place], path, value, where)
            build(changed[place], where, label=label(changed, place))
    return tuple(changed)


def apply_defaults(entries: Sequence[Entry], defaults: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Return the entries with ``step.option`` set in every step of that name that says nothing of the option."""
    changed = list(entries)
    for key, value in defaults.items():
        name, _, option = key.partition(".")
        for place in occurrences(changed, name):
            entry = changed[place]
            changed[place] = Entry(name, {option: value, **entry.options})
    return tuple(changed)


def flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Write nested overrides as dotted keys: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            result |= {f"{key}.{inner}": item for inner, item in flat(value).items()}
        else:
            result[str(key)] = value
    return result


def label(entries: Sequence[Entry], place: int) -> str:
    """Return how overrides address the step at ``place``: its name, with a position where it comes twice."""
    same = occurrences(entries, entries[place].name)
    return entries[place].name if len(same) == 1 else f"{entries[place].name}.{same.index(place)}"


def _address(entries: Sequence[Entry], key: str, where: str) -> tuple[list[int], tuple[str, ...]]:
    name, *path = key.split(".")
    if len(path) > DEEPEST:
        raise RecipeError(f"{where}: '{shorten(key)}' goes deeper than {DEEPEST} levels")
    places = occurrences(entries, name)
    if not places:
        names = dict.fromkeys(entry.name for entry in entries)
        valid = [f"{step}.{option}" for step in names for option in option_keys(known_steps()[step])]
        exact = [option for option in valid if option.endswith(f".{key}")]
        if exact:
            raise RecipeError(f"{where}: '{key}' names no step; did you mean {one_of(exact)}?")
        raise RecipeError(f"{where} has no step '{name}', so no '{key}'{did_you_mean(key, valid)}")
    if path and INDEX.fullmatch(path[0]):
        position = int(path[0])
        if position >= len(places):
            raise RecipeError(f"{where}: {len(places)} '{name}' step(s), counted from 0; '{key}' is past the last")
        return [places[position]], tuple(path[1:])
    return places, tuple(path)


def _check_exists(entries: Sequence[Entry], place: int, path: Sequence[str], where: str) -> None:
    """Refuse a key that only another step of the recipe has; validation finds the other mistakes."""
    known = known_steps()
    if not path or path[0] in option_keys(known[entries[place].name]):
        return
    owners = [label(entries, other) for other, e in enumerate(entries) if path[0] in option_keys(known[e.name])]
    if owners:
        key = ".".join((label(entries, place), *path))
        meant = one_of(".".join((owner, *path)) for owner in owners)
        raise RecipeError(f"{where}: unknown key '{key}'; did you mean {meant}?")

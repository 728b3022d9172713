"""The steps of a recipe as written: an ordered list of names with options; extension and validation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.known import known_steps
from vitq.recipes.schema import INDEX, option_keys, readable_path, shorten, suggestion
from vitq.run.step import Step

REMOVE = "remove"
ABSENT = object()


@dataclass(frozen=True)
class Entry:
    """One line of a recipe's list: a step's name and the options written there (the rest are defaults)."""

    name: str
    options: Mapping[str, Any]
    removed: bool = False

    @classmethod
    def parse(cls, item: object, where: str) -> "Entry":
        """Read ``name``, ``{name: {options}}``, ``{name: null}`` or ``{name: remove}``."""
        if isinstance(item, str):
            return cls(item, {})
        if not isinstance(item, Mapping) or len(item) != 1:
            raise RecipeError(f"{where}: a step is one name with its options, such as '- calibrate: {{images: 32}}'")
        ((name, options),) = item.items()
        if options == REMOVE:
            return cls(str(name), {}, removed=True)
        if options is not None and not isinstance(options, Mapping):
            raise RecipeError(
                f"{where}: options of step '{name}' must be 'key: value' pairs, got {shorten(repr(options))}"
            )
        return cls(str(name), dict(options or {}))


def occurrences(entries: Iterable[Entry], name: str) -> list[int]:
    """Return the places of the steps called ``name``."""
    return [place for place, entry in enumerate(entries) if entry.name == name]


def extend(parent: Sequence[Entry], child: Sequence[Entry], where: str) -> tuple[Entry, ...]:
    """Lay a derived recipe's steps over its parent's.

    The k-th entry of a name changes the parent's k-th step of that name: its keys are merged in depth. A
    name that the parent has no more of is a new step, placed right after the entry before it in the child
    (last, if there is none). ``name: remove`` takes the parent's step away.
    """
    result: list[Entry] = list(parent)
    places = {name: iter(occurrences(parent, name)) for name in {entry.name for entry in child}}
    last = len(result) - 1
    for entry in child:
        place = next(places[entry.name], None)
        if place is None:
            if entry.removed:
                raise RecipeError(f"{where}: the parent recipe has no step '{entry.name}' to remove")
            last += 1
            result.insert(last, entry)
            places = {name: iter([p + (p >= last) for p in rest]) for name, rest in places.items()}
            continue
        result[place] = entry if entry.removed else merge(result[place], (), entry.options, where)
        last = place
    return tuple(entry for entry in result if not entry.removed)


def merge(entry: Entry, path: Sequence[str], value: object, where: str) -> Entry:
    """Return the entry with ``value`` at ``path``; a mapping is merged in depth, anything else replaces."""
    shown = build(entry, where).model_dump(mode="json", by_alias=True)
    return Entry(entry.name, _put(entry.options, shown, path, value))


def _put(written: Any, shown: Any, path: Sequence[str], value: Any) -> Any:
    """Put ``value`` at ``path`` of what is written; where nothing is, start from the default shown."""
    base = shown if written is ABSENT else written
    if not path:
        if not (isinstance(value, Mapping) and isinstance(base, Mapping)):
            return value
        for key, item in value.items():
            base = _put(base, shown, (str(key),), item)
        return base
    head, rest = path[0], path[1:]
    if isinstance(base, list) and INDEX.fullmatch(head) and int(head) < len(base):
        changed = _put(base[int(head)], base[int(head)], rest, value)
        return [*base[: int(head)], changed, *base[int(head) + 1 :]]
    inside = dict(base) if isinstance(base, Mapping) else {}
    default = shown.get(head, ABSENT) if isinstance(shown, Mapping) else ABSENT
    return {**inside, head: _put(inside.get(head, ABSENT), default, rest, value)}


def build(entry: Entry, where: str, label: str | None = None) -> Step:
    """Return the step with its defaults; raise RecipeError naming the wrong key and the nearest valid one."""
    steps = known_steps()
    if entry.name not in steps:
        name = shorten(entry.name)
        raise RecipeError(f"{where}: unknown step '{name}'{did_you_mean(name, steps)}")
    try:
        return steps[entry.name].model_validate(dict(entry.options))
    except ValidationError as error:
        label = label or entry.name
        lines = [_explain(problem, entry, label, steps[entry.name]) for problem in error.errors()]
        raise RecipeError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def _explain(problem: Mapping[str, Any], entry: Entry, label: str, step: type[Step]) -> str:
    path = readable_path(problem["loc"], entry.options, keep_last=problem["type"] == "missing")
    key = ".".join((label, *path))
    if problem["type"] == "extra_forbidden":
        now = step.renamed.get(".".join(path))
        if now is not None:
            return f"unknown key '{key}'; it is now '{label}.{now}'"
        return f"unknown key '{key}'{suggestion(key, [f'{label}.{option}' for option in option_keys(step)])}"
    if problem["type"] == "missing":
        return f"'{key}' is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"'{key}': {message[0].lower()}{message[1:]}, got {shorten(repr(problem['input']))}"

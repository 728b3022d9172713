"""One registry for whatever a recipe or a caller names: formats, steps, searches, terms, curvatures, schedules, …"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from vitq.errors import RecipeError, VitqError, did_you_mean

T = TypeVar("T")
U = TypeVar("U")

NAME = re.compile("[A-Za-z][A-Za-z0-9_-]*")
"""A name is a key of a recipe, of ``--set`` and of a checkpoint's file, so it has neither dots nor slashes."""


class Registry(Mapping[str, T]):
    """Things of one ``kind`` by name, in the order in which they were registered.

    A name is taken once, as are ``reserved`` ones, which vitq knows without an entry; what was defined at the same
    place again (a notebook's cell that runs twice) replaces itself. An entry is a ``base``, or a class of that base;
    without one, anything that can be called. ``error`` is raised for what cannot be registered and, with the nearest
    known name, for an unknown one. Source: vitq.
    """

    def __init__(
        self,
        kind: str,
        base: type | None = None,
        *,
        reserved: Collection[str] = (),
        error: type[VitqError] = RecipeError,
    ) -> None:
        self.kind, self.base, self.reserved = kind, base, tuple(reserved)
        self._error = error
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def register(self, name: str, make: Callable[[Any], Any] = lambda defined: defined) -> Callable[[U], U]:
        """Return a decorator that registers what ``make`` makes of the decorated under ``name``."""

        def register(defined: U) -> U:
            self.add(name, make(defined), defined)
            return defined

        self._require_name(name)
        return register

    def add(self, name: str, entry: T, defined: object = None) -> None:
        """Register ``entry`` under ``name``; ``defined`` is the class or function that it was made of, if any."""
        self._require_name(name)
        if not self._fits(entry) or not (defined is None or callable(defined)):
            wanted = "something to call" if self.base is None else f"a {self.base.__name__}"
            raise self._error(f"{self.kind} '{name}' must be {wanted}, not {entry if defined is None else defined!r}")
        origin = _origin(entry if defined is None else defined)
        if name in self.reserved:
            raise self._error(f"{self.kind} '{name}' is vitq's own; choose another name")
        if self._origins.get(name, origin) != origin:
            raise self._error(
                f"{self.kind} '{name}' is already registered by {self._origins[name]}; choose another name"
            )
        self._entries[name], self._origins[name] = entry, origin

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise self._error(self._unknown(name, self._entries))
        return self._entries[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the entry of ``name``, or ``default``."""
        return self._entries.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def option(self, name: str) -> str:
        """Return the name that an option gives; ValueError, which options raise, where it is neither known nor own."""
        names = (*self.reserved, *self._entries)
        if name not in names:
            raise ValueError(self._unknown(name, names))
        return name

    def origin(self, name: str) -> str:
        """Return where the entry of ``name`` was defined: its module and name."""
        return self._origins[name]

    def built_in(self) -> tuple[str, ...]:
        """Return the names of what vitq itself defines."""
        return tuple(name for name, origin in self._origins.items() if origin.startswith("vitq."))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put everything back after the block, so that a test or a notebook leaves no trace."""
        before = dict(self._entries), dict(self._origins)
        try:
            yield
        finally:
            self._entries, self._origins = before

    def remove(self, name: str) -> None:
        """Forget ``name``."""
        del self._entries[name], self._origins[name]

    def _unknown(self, name: str, names: Collection[str]) -> str:
        return (
            f"{self.kind} '{name}' does not exist{did_you_mean(str(name), names) if names else '; none is registered'}"
        )

    def _require_name(self, name: object) -> None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise self._error(
                f"a {self.kind} is registered under a name of letters, digits, _ and -, a letter first; got {name!r}"
            )

    def _fits(self, entry: object) -> bool:
        if self.base is None:
            return callable(entry)
        return isinstance(entry, self.base) or (isinstance(entry, type) and issubclass(entry, self.base))


def _origin(entry: Any) -> str:
    """Return where an entry was defined; a value without a definition is told apart by what it is."""
    module, name = getattr(entry, "__module__", None), getattr(entry, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(entry)

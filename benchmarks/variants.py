"""A row of a table as a recipe: with other options, with steps before its own and behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitq.recipes import load_recipe
from vitq.recipes.known import known_steps
from vitq.run.step import Step

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A recipe with other options, with steps before its own and behind them."""

    recipe: str
    budget: str = "quick"
    options: Options = field(default_factory=dict)
    first: Sequence[Mapping[str, Options]] = ()
    last: Sequence[Mapping[str, Options]] = ()

    def steps(self) -> list[Step]:
        """Return all steps."""
        own = load_recipe(self.recipe, budget=self.budget, overrides=self.options).steps
        first, last = ([_step(entry) for entry in entries] for entries in (self.first, self.last))
        return [*first, *own, *last]


def _step(entry: Mapping[str, Options]) -> Step:
    ((name, options),) = entry.items()
    return known_steps()[name].model_validate(options)


def rotate(heads: bool, residual: str) -> list[dict[str, Options]]:
    """Return the step that rotates what is named, whatever it brings."""
    return [{"rotate": {"heads": heads, "residual": residual, "choose": False}}]

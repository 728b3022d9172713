"""From a recipe as written to steps ready to run: parents, budget, overrides, defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.document import write_yaml
from vitq.recipes.entries import build
from vitq.recipes.library import with_parents
from vitq.recipes.overrides import apply_defaults, apply_overrides, label
from vitq.recipes.recipe import Recipe
from vitq.run.step import Step

BUDGETS = ("quick", "full")


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe ready to run: every option has its value, the budget (None where there is none) is applied."""

    name: str
    summary: str
    source: str
    budget: str | None
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with every default written out; as YAML it is a recipe with the same steps."""
        head = {"name": self.name, "summary": self.summary, "source": self.source, "budget": self.budget}
        return {**head, "steps": [{step.step_name: _written_out(step)} for step in self.steps]}

    def to_yaml(self) -> str:
        """Return ``to_dict`` as YAML."""
        return write_yaml(self.to_dict())


def load_recipe(
    name_or_path: str | Path,
    *,
    budget: str = "quick",
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ResolvedRecipe:
    """Resolve a recipe by name or from a YAML file: parents first, then the budget, then ``overrides``.

    ``overrides`` are dotted keys such as ``"reconstruct.steps"``; ``defaults`` are too, and hold for the steps that say
    nothing of their key. Raises RecipeError for an unknown recipe, step, key, budget or a wrong value, and names the
    nearest valid one.
    """
    recipe = with_parents(name_or_path)
    where = f"recipe '{recipe.name}'"
    entries = apply_overrides(recipe.steps, _budget_overrides(recipe, budget), f"{where}, budget '{budget}'")
    entries = apply_defaults(entries, defaults or {})
    entries = apply_overrides(entries, overrides or {}, where)
    steps = tuple(build(entry, where, label(entries, place)) for place, entry in enumerate(entries))
    if not steps:
        raise RecipeError(f"{where} has no steps; list at least one, or name a parent with 'extends'")
    applied = recipe.budget or (budget if recipe.budgets else None)
    return ResolvedRecipe(recipe.name, recipe.summary, recipe.source, applied, steps)


def _written_out(step: Step) -> dict[str, Any]:
    return step.model_dump(mode="json", by_alias=True)


def _budget_overrides(recipe: Recipe, budget: str) -> Mapping[str, Any]:
    names = recipe.budgets or {name: {} for name in BUDGETS}
    if budget not in names:
        raise RecipeError(f"recipe '{recipe.name}' has no budget '{budget}'{did_you_mean(budget, names)}")
    return names[budget]

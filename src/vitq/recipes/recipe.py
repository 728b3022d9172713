"""A recipe: a list of steps in YAML that reads like a paper's method section.

Example, a whole derived recipe::

    name: brecq
    summary: …
    source: …
    extends: qdrop
    steps:
      - reconstruct: {drop: 0}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.document import read_yaml, write_yaml
from vitq.recipes.entries import Entry, build, extend
from vitq.recipes.overrides import apply_overrides, flat, label
from vitq.step import Step

BUDGETS = ("quick", "full")


class Recipe(BaseModel):
    """A recipe file as written: steps with what differs from their defaults, and what each budget changes.

    ``extends`` names a parent, whose steps and budgets are changed by those here. ``budget`` is set only in a
    file that was written from a resolved recipe, whose budget is already applied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    summary: str
    source: str
    extends: str | None = None
    budget: str | None = None
    steps: tuple[Entry, ...] = ()
    budgets: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("steps", mode="before")
    @classmethod
    def _entries(cls, items: object) -> tuple[Entry, ...]:
        if not isinstance(items, list | tuple):
            raise ValueError("steps must be a list, one '- name: {options}' per step")
        return tuple(
            item if isinstance(item, Entry) else Entry.parse(item, f"step {place}")
            for place, item in enumerate(items, 1)
        )


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
    name_or_path: str | Path, *, budget: str = "quick", overrides: Mapping[str, Any] | None = None
) -> ResolvedRecipe:
    """Resolve a recipe by name or from a YAML file: parents first, then the budget, then ``overrides``.

    ``overrides`` are dotted keys such as ``"reconstruct.steps"``. Raises RecipeError for an unknown recipe,
    step, key, budget or a wrong value, and names the nearest valid one.
    """
    recipe = with_parents(name_or_path)
    where = f"recipe '{recipe.name}'"
    entries = apply_overrides(recipe.steps, _budget_overrides(recipe, budget), f"{where}, budget '{budget}'")
    entries = apply_overrides(entries, overrides or {}, where)
    steps = tuple(build(entry, where, label(entries, place)) for place, entry in enumerate(entries))
    if not steps:
        raise RecipeError(f"{where} has no steps; list at least one, or name a parent with 'extends'")
    applied = recipe.budget or (budget if recipe.budgets else None)
    return ResolvedRecipe(recipe.name, recipe.summary, recipe.source, applied, steps)


def list_recipes() -> tuple[Recipe, ...]:
    """Return the recipes that come with vitq, as written, in alphabetical order."""
    return tuple(_parse(text, f"recipe '{name}'") for name, text in sorted(_built_in().items()))


def with_parents(name_or_path: str | Path) -> Recipe:
    """Read a recipe and lay it over its parents; the result extends nothing."""
    return _laid_over_parents(name_or_path, Path(), ())


def _laid_over_parents(name_or_path: str | Path, folder: Path, below: tuple[str, ...]) -> Recipe:
    text, key, folder = _read(name_or_path, folder)
    if key in below:
        raise RecipeError(f"recipes extend each other in a circle: {' > '.join((*below, key))}")
    recipe = _parse(text, f"recipe '{name_or_path}'")
    where = f"recipe '{recipe.name}'"
    for entry in recipe.steps:
        if recipe.extends is None and entry.removed:
            raise RecipeError(f"{where}: step '{entry.name}' is removed, but there is no parent that has it")
    if recipe.extends is None:
        return recipe
    parent = _laid_over_parents(recipe.extends, folder, (*below, key))
    budgets = {
        name: {**flat(parent.budgets.get(name, {})), **flat(recipe.budgets.get(name, {}))}
        for name in parent.budgets | recipe.budgets
    }
    steps = extend(parent.steps, recipe.steps, where)
    return recipe.model_copy(update={"extends": None, "steps": steps, "budgets": budgets})


def _written_out(step: Step) -> dict[str, Any]:
    return step.model_dump(mode="json", by_alias=True)


def _budget_overrides(recipe: Recipe, budget: str) -> Mapping[str, Any]:
    names = recipe.budgets or {name: {} for name in BUDGETS}
    if budget not in names:
        raise RecipeError(f"recipe '{recipe.name}' has no budget '{budget}'{did_you_mean(budget, names)}")
    return names[budget]


def _parse(text: str, where: str) -> Recipe:
    data = read_yaml(text, where)
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}: a recipe is 'key: value' lines with name, summary, source and steps")
    for key in data:
        if key not in Recipe.model_fields:
            raise RecipeError(f"{where}: unknown key '{key}'{did_you_mean(str(key), Recipe.model_fields)}")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise RecipeError(f"{where}: '{key}': {problem['msg'].removeprefix('Value error, ')}") from None


def _read(name_or_path: str | Path, folder: Path) -> tuple[str, str, Path]:
    """Return a recipe's text, a key that identifies it, and the folder its ``extends`` is relative to."""
    built_in = _built_in()
    if str(name_or_path) in built_in:
        return built_in[str(name_or_path)], str(name_or_path), Path()
    path = folder / name_or_path
    if path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(str(name_or_path), built_in)
        raise RecipeError(f"there is no recipe '{name_or_path}'{hint}; a file of your own ends in .yaml")
    try:
        return path.read_text(encoding="utf-8"), str(path.resolve()), path.parent
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file '{path}' cannot be read: {error}") from None


def _built_in() -> dict[str, str]:
    folder = files("vitq.recipes") / "yaml"
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }

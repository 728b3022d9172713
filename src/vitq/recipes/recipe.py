"""A recipe: a list of steps in YAML that reads like a paper's method section.

Example, a whole derived recipe::

    name: brecq
    summary: …
    source: …
    extends: qdrop
    steps:
      - reconstruct: {noise: {drop_activations: 0, mix_inputs: 0}}
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.document import read_yaml
from vitq.recipes.entries import Entry
from vitq.recipes.schema import shorten


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


def parse_recipe(text: str, where: str) -> Recipe:
    """Read a recipe from YAML; RecipeError, which begins with ``where``, names what is wrong with it."""
    data = read_yaml(text, where)
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}: a recipe is 'key: value' lines with name, summary, source and steps")
    for key in data:
        if key not in Recipe.model_fields:
            raise RecipeError(
                f"{where}: unknown key '{shorten(str(key))}'{did_you_mean(shorten(str(key)), Recipe.model_fields)}"
            )
    try:
        return Recipe.model_validate(data)
    except RecipeError as error:  # of a step
        raise RecipeError(f"{where}, {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise RecipeError(f"{where}: '{key}': {problem['msg'].removeprefix('Value error, ')}") from None

"""A recipe for a target, with the options and the scope that run fast there; the scopes of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitq.calibrate import Insert
from vitq.errors import ExportError
from vitq.export.targets import profile_of
from vitq.recipes.resolve import ResolvedRecipe, load_recipe


def recipe_for(
    recipe: str | Path, budget: str, scope: str | None, target: str | None, overrides: Mapping[str, Any]
) -> ResolvedRecipe:
    """Resolve a recipe for a target, its scope by the first that names one: overrides, ``scope``, recipe, target."""
    profile = None if target is None else profile_of(target)
    chosen = {} if profile is None else dict(profile.overrides)
    chosen |= {} if scope is None else {"insert.scope": scope}
    defaults = {} if profile is None else {"insert.scope": profile.scopes[0]}
    plan = load_recipe(recipe, budget=budget, defaults=defaults, overrides={**chosen, **overrides})
    for step in plan.steps:
        if profile is not None and isinstance(step, Insert) and step.scope not in profile.scopes:
            known = " or ".join(profile.scopes)
            raise ExportError(
                f"target '{target}' is of scope {known}, not {step.scope}; leave one of them out, "
                f"or give scope {profile.scopes[0]} where the recipe says {step.scope}"
            )
    return plan


def scopes_of(plan: ResolvedRecipe) -> tuple[str, ...]:
    """Return the scopes that the recipe inserts quantizers for, each once; none where it inserts nothing."""
    return tuple(dict.fromkeys(step.scope for step in plan.steps if isinstance(step, Insert)))

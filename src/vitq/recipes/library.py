"""Where recipes come from: those of vitq, files of one's own, and the parents that they extend."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.entries import extend
from vitq.recipes.overrides import flat
from vitq.recipes.recipe import Recipe, parse_recipe

LARGEST_FILE = 1_000_000


def list_recipes() -> tuple[Recipe, ...]:
    """Return the recipes that come with vitq, as written, in alphabetical order."""
    return tuple(parse_recipe(text, f"recipe '{name}'") for name, text in sorted(_built_in().items()))


def with_parents(name_or_path: str | Path) -> Recipe:
    """Read a recipe and lay it over its parents; the result extends nothing."""
    if str(name_or_path) in _built_in():
        return _whole(str(name_or_path)).model_copy(deep=True)
    return _laid_over_parents(name_or_path, Path(), ())


@cache
def _whole(name: str) -> Recipe:
    return _laid_over_parents(name, Path(), ())


def _laid_over_parents(name_or_path: str | Path, folder: Path, below: tuple[str, ...]) -> Recipe:
    text, key, folder = _read(name_or_path, folder)
    if key in below:
        raise RecipeError(f"recipes extend each other in a circle: {' > '.join((*below, key))}")
    recipe = parse_recipe(text, f"recipe '{name_or_path}'")
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
        if path.exists() and not path.is_file():  # a pipe or a device would be waited for
            raise RecipeError(f"recipe '{path}' is no file")
        if path.stat().st_size > LARGEST_FILE:
            raise RecipeError(f"recipe file '{path}' has more than {LARGEST_FILE:,} bytes; no recipe is that long")
        return path.read_text(encoding="utf-8"), str(path.resolve()), path.parent
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path with a NUL
        raise RecipeError(f"recipe file '{path}' cannot be read: {error}") from None


@cache
def _built_in() -> dict[str, str]:
    folder = files("vitq.recipes") / "yaml"
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }

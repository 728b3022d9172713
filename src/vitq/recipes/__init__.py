"""Recipes: published systems as lists of steps, with budgets, extension and overrides."""

from vitq.recipes.library import list_recipes
from vitq.recipes.overrides import parse_assignments
from vitq.recipes.recipe import Recipe
from vitq.recipes.resolve import ResolvedRecipe, load_recipe

__all__ = ["Recipe", "ResolvedRecipe", "list_recipes", "load_recipe", "parse_assignments"]

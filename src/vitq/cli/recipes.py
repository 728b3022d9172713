"""``vitq recipes``: list them, and show one with every default written out."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from vitq.cli.console import print_json, show, write
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, Override

recipes_app = typer.Typer(help="List the recipes, or show one with every default written out.", rich_markup_mode=None)


@recipes_app.callback(invoke_without_command=True)
def _recipes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_all(as_json=False)


@recipes_app.command("list")
@guarded
def list_all(as_json: AsJson = False) -> None:
    """List the recipes that come with vitq."""
    from vitq.recipes import list_recipes

    recipes = list_recipes()
    if as_json:
        rows = [{"name": r.name, "summary": r.summary, "source": r.source, "extends": r.extends} for r in recipes]
        print_json({"recipes": rows})
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it does")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.summary.strip())
    show(table)


@recipes_app.command("show")
@guarded
def show_one(
    name: Annotated[str, typer.Argument(help="A recipe's name or a .yaml file.")],
    budget: Annotated[str, typer.Option(help="quick or full.")] = "quick",
    override: Override = None,
    as_json: AsJson = False,
) -> None:
    """Print a recipe as YAML, as it would run; saved to a file, it is a recipe to change and to run."""
    from vitq.recipes import load_recipe, parse_assignments

    recipe = load_recipe(name, budget=budget, overrides=parse_assignments(override or []))
    if as_json:
        print_json(recipe.to_dict())
    else:
        write(recipe.to_yaml().rstrip("\n"))

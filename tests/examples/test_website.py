"""The pages that scripts/website.py makes for the site: of recipes and of the API."""

import inspect
import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from vitq.recipes import list_recipes, load_recipe

ROOT = Path(__file__).parents[2]
NAMES = [recipe.name for recipe in list_recipes()]
OTHERS = {"Path", "Any", "Mapping", "Tensor"}
INSIDE = {"Graph", "Quantizer"}
"""Classes behind a model that are no results: the page of parts has them."""


@pytest.fixture(scope="module")
def website(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("website")


def anchors(website: ModuleType, text: str) -> set[str]:
    return {website.anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipes_page_has_its_summary_source_and_file(website: ModuleType, name: str) -> None:
    text, recipe = website.recipe_page(name), load_recipe(name)
    assert text.startswith(f"# `{name}`: ") and recipe.summary in text and recipe.source in text
    assert (ROOT / f"src/vitq/recipes/yaml/{name}.yaml").read_text(encoding="utf-8").strip() in text


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_of_a_recipes_page_are_the_recipe(website: ModuleType, name: str, tmp_path: Path) -> None:
    """What the page shows of the steps, and of the budgets, makes a recipe that resolves to the same."""
    text = website.recipe_page(name).partition("## Steps\n")[2].partition("## The file")[0]
    steps, _, budgets = text.partition("## Budgets\n")
    shown = []
    for part in re.split(r"^### \d+\. ", steps, flags=re.MULTILINE)[1:]:
        block = re.search(r"```yaml\n(.*?)```", part, re.DOTALL)
        shown.append(yaml.safe_load(block[1]) if block else part.split("`")[1])
    block = re.search(r"```yaml\n(.*?)```", budgets, re.DOTALL)
    written = {"name": name, "summary": "a", "source": "b", "steps": shown}
    if block:
        written["budgets"] = yaml.safe_load(block[1])
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    assert load_recipe(tmp_path / "own.yaml").steps == load_recipe(name).steps


def test_links_of_made_pages_lead_to_pages_and_headings(website: ModuleType) -> None:
    made = {website.recipe_path(name): website.recipe_page(name) for name in NAMES} | website.api_pages()
    links = 0
    for path, text in made.items():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            there = (ROOT / path).parent.joinpath(target).resolve() if target else ROOT / path
            key = there.relative_to(ROOT).as_posix()
            assert key in made or there.is_file(), f"{path}: {target}"
            page = made.get(key) or there.read_text(encoding="utf-8")
            assert not anchor or anchor in anchors(website, page), f"{path}: {target}#{anchor}"
            links += 1
    assert links > 200


def test_the_overview_leads_to_each_recipe(website: ModuleType) -> None:
    class Page:
        class file:
            src_uri = "docs/recipes.md"

    text = website.on_page_markdown((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), Page)
    assert all(f"| [`{name}`](recipes/{name}.md) |" in text for name in NAMES)
    assert "| `scope` |" in text  # a table of options


def test_the_api_has_every_verb_error_and_decorator(website: ModuleType) -> None:
    import vitq

    pages = website.api_pages()
    text = "\n".join(pages.values())
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    for word in re.findall(r"^def (register_\w+)", code, re.MULTILINE):
        assert re.search(rf"^::: [\w.]+\.{word}$", text, re.MULTILINE), word
    for name in vitq.__all__:
        assert re.search(rf"^::: [\w.]+\.{name}$", text, re.MULTILINE), name
    for path in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name).__doc__, path


def test_the_api_has_the_classes_that_verbs_and_models_return(website: ModuleType) -> None:
    import vitq

    text = website.api_pages()["docs/api/results.md"]
    model = [given for name, given in vars(vitq.QuantizedModel).items() if not name.startswith("_")]
    calls = [getattr(vitq, name) for name in vitq.__all__ if name != "QuantizedModel"]
    calls += [given.fget if isinstance(given, property) else given for given in model]
    returned = {str(inspect.signature(call).return_annotation) for call in calls if callable(call)}
    own = {name for kind in returned for name in re.findall(r"vitq\.[\w.]*?(\w+)\b(?!\.)", kind)}
    own |= {name for kind in returned for name in re.findall(r"(?<![\w.])([A-Z]\w+)", kind) if name not in OTHERS}
    assert len(own) > 8
    missing = {name for name in own if not re.search(rf"^::: [\w.]+\.{name}$", text, re.MULTILINE)}
    assert missing == INSIDE, missing


def test_the_extra_of_the_site_has_what_its_configuration_names() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {re.split(r"[<>=\[]", line)[0] for line in extras["docs"]}
    assert {"mkdocs", "mkdocs-material", "mkdocstrings-python"} <= named
    assert "mkdocstrings:" in site and "scripts/website.py" in site

"""What the site has beside the pages of the repository: a page for each recipe, and the API from docstrings.

mkdocs calls this file as a hook (``make docs``). Nothing that it makes is kept in the repository.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

import vitq
import vitq.errors
from vitq.allocate import SOLVERS
from vitq.calibrate.scope import SCOPES
from vitq.calibrate.searches import SEARCHES
from vitq.quantizers import FORMATS
from vitq.recipes import list_recipes
from vitq.recipes.entries import build
from vitq.recipes.library import with_parents
from vitq.recipes.recipe import parse_recipe
from vitq.reconstruct.objective.curvature import CURVATURES
from vitq.reconstruct.objective.terms import DISTANCES
from vitq.registry import Registry
from vitq.run.step import Step

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
YAML = ROOT / "src" / "vitq" / "recipes" / "yaml"
NAMED: Mapping[str, Registry[Any]] = {
    "scope": SCOPES,
    "format": FORMATS,
    "from_bits": FORMATS,
    "weights": SEARCHES,
    "activations": SEARCHES,
    "curvature": CURVATURES,
    "local_by": DISTANCES,
    "solver": SOLVERS,
}
"""Options whose values are names of something registered."""

PARTS = {
    "Steps of recipes": ("vitq.run.step", "register_step", "Step", "OptionGroup"),
    "Number formats": ("vitq.quantizers", "register_format", "Codec", "Logarithm", "Quantizer", "Format"),
    "Searches": ("vitq.calibrate", "register_search"),
    "Scopes": ("vitq.calibrate", "register_scope"),
    "Schedules": ("vitq.reconstruct", "register_schedule"),
    "Terms of the objective": ("vitq.reconstruct", "register_term"),
    "Curvatures": ("vitq.reconstruct", "register_curvature"),
    "Distances": ("vitq.reconstruct", "register_distance"),
    "Tasks": ("vitq.tasks", "register_task", "Task"),
    "Solvers": ("vitq.allocate", "register_solver", "Problem", "Search"),
    "Targets": ("vitq.export.targets", "register_target", "Profile"),
    "Lowerings": ("vitq.export.lowerings", "register_lowering"),
    "Graphs": ("vitq.graph", "capture", "Graph", "Site", "Role", "Span"),
    "Registries": ("vitq.registry", "Registry"),
}
"""What extensions are made of, by heading: a module, and names in it."""

RESULTS = (
    "vitq.model.QuantizedModel",
    "vitq.model.IntegerModel",
    "vitq.run.whole.QuantizedPart",
    "vitq.calibrate.ScopeRow",
    "vitq.evaluation.Metrics",
    "vitq.evaluation.Beside",
    "vitq.artifact.metrics.RunMetrics",
    "vitq.artifact.schema.ArtifactConfig",
    "vitq.export.export.Exported",
    "vitq.export.verify.outputs.EndToEnd",
    "vitq.bench.bench.Measured",
    "vitq.allocation.result.Allocation",
    "vitq.bits.Bits",
    "vitq.bits.BitTable",
    "vitq.diagnosis.result.Diagnosis",
    "vitq.suites.compare.Comparison",
    "vitq.reconstruct.slicing.choose.Choice",
    "vitq.models.LoadedModel",
    "vitq.models.Preprocessing",
)

OF_FIELDS = ("vitq.artifact.metrics.RunMetrics", "vitq.artifact.schema.ArtifactConfig")
"""Those whose fields have no docstrings, and no constructor that names them."""


def on_config(config: "MkDocsConfig") -> None:
    """Put what is made into the navigation, before what was measured."""
    assert config.nav is not None
    recipes = [{name: path} for name, path in zip(names(), map(recipe_path, names()), strict=True)]
    api = [{page.partition("\n")[0].removeprefix("# "): path} for path, page in api_pages().items()]
    place = next(place for place, entry in enumerate(config.nav) if "Measured" in entry)
    config.nav[place:place] = [{"Recipes": recipes}, {"API": api}]


def on_files(files: "Files", config: "MkDocsConfig") -> None:
    """Add what is made to the pages."""
    from mkdocs.structure.files import File

    for path, text in ({recipe_path(name): recipe_page(name) for name in names()} | api_pages()).items():
        files.append(File.generated(config, path, content=text))


def on_page_markdown(markdown: str, page: "Page", **_: Any) -> str:
    """Lead from the overview of recipes to their pages."""
    if page.file.src_uri != "docs/recipes.md":
        return markdown
    return re.sub(r"^\| `([\w-]+)` (?=\|)", _with_link, markdown, flags=re.MULTILINE)


def _with_link(row: re.Match[str]) -> str:
    return f"| [`{row[1]}`](recipes/{row[1]}.md) " if row[1] in names() else row[0]


@cache
def names() -> tuple[str, ...]:
    """Return the names of the recipes that come with vitq."""
    return tuple(recipe.name for recipe in list_recipes())


def recipe_path(name: str) -> str:
    """Return where the site has a recipe's page."""
    return f"docs/recipes/{name}.md"


@cache
def recipe_page(name: str) -> str:
    """Return a recipe's page: what it does, its source, our reading, its steps with what they name, and its file."""
    recipe = with_parents(name)
    title, reading = _reading(name)
    steps = [build(entry, name) for entry in recipe.steps]
    parts = [
        f"# {title}\n\n{recipe.summary}",
        f"**Source.** {recipe.source}",
        f"```\nvitq quantize MODEL --images DIR --recipe {name}\nvitq recipes show {name}\n```",
        f"## The method, and our reading\n\n{reading}",
        "All recipes share a scope, ranges, rounding and a way to train: see [methods](../methods.md#common-to-all).",
        "## Steps\n\nThey run in this order. Below each stand the options that are not its defaults.",
        *(_step(steps, place) for place in range(len(steps))),
    ]
    if recipe.budgets:
        parts.append(f"## Budgets\n\n`--budget` changes these options.\n\n{_as_yaml(recipe.budgets)}")
    if found := dict(_named([_changed(step, type(step)()) for step in steps])):
        explained = "\n\n".join(f"**{kind}.** {text}" for kind, text in found.items())
        parts.append(f"## Formats, searches and curvatures by name\n\n{explained}")
    parts.append("## Benchmarks that name it\n\n" + ("\n".join(_benchmarks(name)) or "None yet."))
    parts.append("## The file\n\n" + "\n\n".join(_files(name)))
    return "\n\n".join(parts) + "\n"


def _changed(options: BaseModel, usual: BaseModel) -> dict[str, Any]:
    """Return the options that differ from ``usual``; a group that is usually none is compared with its own defaults."""
    found = {}
    for name, field in type(options).model_fields.items():
        value, other = getattr(options, name), getattr(usual, name)
        if value == other:
            continue
        inner = _changed(value, other or type(value)()) if isinstance(value, BaseModel) else {}
        key = field.alias or name
        found[key] = inner or options.model_dump(mode="json", by_alias=True, include={name})[key]
    return found


def _step(steps: Sequence[Step], place: int) -> str:
    step, options = steps[place], _changed(steps[place], type(steps[place])())
    first = next(number for number, other in enumerate(steps) if other.step_name == step.step_name)
    (title,) = re.findall(rf"^### (`{step.step_name}`.*)$", _text("docs/recipes.md"), re.MULTILINE)
    words = f"{_plain(type(step))} [All its options](../recipes.md#{anchor(title)})."
    if first < place:
        words = f"As [step {first + 1}](#{first + 1}-{step.step_name})."
    heading = f"### {place + 1}. `{step.step_name}`\n\n{words}"
    return f"{heading}\n\n{_as_yaml({step.step_name: options})}" if options else heading


def _named(options: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is registered and named by options, with its docstring."""
    if isinstance(options, Mapping):
        for inner, value in options.items():
            yield from _named(value, key if key == "from_bits" else inner)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _named(value, key)
    elif key in NAMED and options in NAMED[key]:
        registry = NAMED[key]
        module, _, attribute = registry.origin(options).rpartition(".")
        yield f"{registry.kind.capitalize()} `{options}`", _plain(getattr(import_module(module), attribute))


def _plain(documented: Any) -> str:
    """Return a docstring without its line breaks inside paragraphs."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(documented) or "")


def _reading(name: str) -> tuple[str, str]:
    """Return the heading and the text of the recipe's section in docs/methods.md, as they are one folder deeper."""
    (section,) = re.findall(rf"^## (`{name}`.*?)(?=^## |\Z)", _text("docs/methods.md"), re.MULTILINE | re.DOTALL)
    title, _, text = section.partition("\n")
    text = re.sub(r"\]\((?!https?:|#)", "](../", text.strip())
    return title, text.replace("](#", "](../methods.md#")


def _benchmarks(name: str) -> list[str]:
    pages = {path.name: _text(f"benchmarks/{path.name}") for path in sorted((ROOT / "benchmarks").glob("*.md"))}
    return [
        f"* [{text.splitlines()[0].removeprefix('# ')}](../../benchmarks/{file})"
        for file, text in pages.items()
        if re.search(rf"`{name}`|^\| {name} \|", text, re.MULTILINE) and file != "README.md"
    ]


def _files(name: str | None) -> Iterator[str]:
    """Yield the recipe's file and those of its parents, as written."""
    while name is not None:
        text = (YAML / f"{name}.yaml").read_text(encoding="utf-8")
        yield f"`{name}.yaml`:\n\n```yaml\n{text.strip()}\n```"
        name = parse_recipe(text, name).extends
        if name is not None:
            yield f"It extends [`{name}`]({name}.md):"


def api_pages() -> dict[str, str]:
    """Return the pages of the API by path; mkdocstrings puts docstrings in."""
    verbs = {name: verb for name in vitq.__all__ if inspect.isfunction(verb := getattr(vitq, name))}
    errors = [
        name for name, kind in vars(vitq.errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    return {
        "docs/api/verbs.md": "# Verbs\n\n`import vitq` has these functions.\n\n"
        + "\n\n".join(_docstring(_defined(verb), 2, f"vitq.{name}") for name, verb in verbs.items()),
        "docs/api/results.md": "# Models and results\n\nVerbs take and return these.\n\n"
        + "\n\n".join(_docstring(path, 2, fields=path in OF_FIELDS) for path in RESULTS),
        "docs/api/parts.md": "# Parts\n\nExtensions are made of these. "
        "[Contributing](../../CONTRIBUTING.md) shows an example of each.\n\n"
        + "\n\n".join(
            f"## {title}\n\n" + "\n\n".join(_docstring(f"{module}.{name}", 3) for name in members)
            for title, (module, *members) in PARTS.items()
        ),
        "docs/api/errors.md": "# Errors\n\n"
        "[Troubleshooting](../troubleshooting.md#errors) says what to do about each.\n\n"
        + "\n\n".join(_docstring(f"vitq.errors.{name}", 2) for name in errors),
    }


def _docstring(path: str, level: int, heading: str = "", fields: bool = False) -> str:
    options: dict[str, Any] = {"heading_level": level} | ({"heading": heading} if heading else {})
    options |= {"show_if_no_docstring": "true"} if fields else {}
    return f"::: {path}\n" + "\n".join(["    options:", *(f"      {key}: {value}" for key, value in options.items())])


def _defined(documented: Any) -> str:
    return f"{documented.__module__}.{documented.__qualname__}"


def _as_yaml(data: Any) -> str:
    text = yaml.safe_dump(_with_numbers(data), sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return f"```yaml\n{text}```"


def _with_numbers(data: Any) -> Any:
    """Return data with numbers of bits as keys, which JSON has as text."""
    if isinstance(data, Mapping):
        return {int(key) if str(key).isdigit() else key: _with_numbers(value) for key, value in data.items()}
    return data


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")

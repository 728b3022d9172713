"""A suite as written: which models, recipes, bits, budgets and seeds are compared, on which images.

Example, a whole suite::

    name: mine
    about: does training pay at 4 bits?
    data: ../data
    images: calibration
    validation: validation
    models:
      DeiT-Tiny: {model: deit_tiny_patch16_224, weights: weights/deit_tiny.safetensors}
    recipes:
      repq:
      mgrq: {seeds: [0, 1, 2]}
    bits: [w4a4]
    claims:
      - {better: mgrq, than: repq}
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vitq.artifact.files import read_file, shown
from vitq.bits import Bits
from vitq.errors import SuiteError, VitqError, did_you_mean
from vitq.recipes.document import read_yaml
from vitq.recipes.schema import shorten

FLOATING = "floating point"
"""Name of the rows that are not quantized; no recipe of a suite has it."""

LARGEST = 1_000_000


class Strict(BaseModel):
    """What a suite is made of: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, str_min_length=1)


def _width(value: Any) -> Any:
    """Read ``W4A4`` as ``w4a4``; what is no width, as the name of a table, stays, and is told where it is used."""
    try:
        return str(Bits.parse(value)) if isinstance(value, str) else value
    except VitqError:
        return value


T = TypeVar("T")
Width = Annotated[str, BeforeValidator(_width)]
Several = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class ModelEntry(Strict):
    """One model: arguments of ``vitq.quantize``; ``floating`` is what its paper says of it, not quantized."""

    model: str
    weights: str | None = None
    num_classes: Count | None = None
    preprocessing: dict[str, Any] = {}
    floating: float | None = None


class RecipeEntry(Strict):
    """One recipe, its name in the suite where ``recipe`` names no other; lists here stand for those of the suite.

    ``images`` stands for the suite's: other calibration images, or ``synthetic`` or ``noise``; so does ``limit``.
    """

    recipe: str | None = None
    images: str | None = None
    limit: Count | None = None
    set: dict[str, Any] = {}
    scope: str | None = None
    target: str | None = None
    views: Count = 1
    models: Several[str] | None = None
    bits: Several[Width] | None = None
    budgets: Several[str] | None = None
    seeds: Several[Seed] | None = None


class Published(Strict):
    """Figures of another's publication, by the suite's names of models; ``source`` says where they stand."""

    name: str
    source: str
    bits: Width
    scores: dict[str, float]


class Claim(Strict):
    """That one recipe scores better than another wherever both were measured, or at some ``bits`` alone."""

    better: str
    than: str
    bits: Several[Width] | None = None


def _named(value: Any) -> Any:
    """Read a list of names as a mapping, and a name with nothing behind it as one with defaults."""
    if isinstance(value, list):
        value = {str(name): None for name in value}
    return {name: {} if entry is None else entry for name, entry in value.items()} if isinstance(value, dict) else value


def _models(value: Any) -> Any:
    """Read a model that is nothing but a name."""
    value = {name: name for name in value} if isinstance(value, list) else value
    if not isinstance(value, dict):
        return value
    return {name: {"model": entry or name} if isinstance(entry, str | None) else entry for name, entry in value.items()}


class Suite(Strict):
    """A suite file; data lie under ``data``, which is relative to the file, as recipes and bit tables are.

    ``held_out`` of the images are given to no recipe; what is quantized is compared with its original on them.
    """

    name: str
    about: str = ""
    data: str = "."
    images: str
    validation: str
    limit: Count = 1000
    held_out: Count | None = None
    validation_limit: Count | None = None
    task: str | None = None
    models: Annotated[dict[str, ModelEntry], BeforeValidator(_models), Field(min_length=1)]
    recipes: Annotated[dict[str, RecipeEntry], BeforeValidator(_named), Field(min_length=1)]
    bits: Several[Width]
    seeds: Several[Seed] = (0,)
    budgets: Several[str] = ("quick",)
    published: Annotated[tuple[Published, ...], Field(strict=False)] = ()
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = ()
    golden: str | None = None
    tolerance: Annotated[float, Field(gt=0, le=100)] = 1.0


def load_suite(path: str | Path) -> Suite:
    """Read a suite file; SuiteError says which key of it is wrong, and what it may be."""
    place = Path(path)
    text = read_file(place, error=SuiteError).decode("utf-8", "replace")
    return parse_suite(text, shown(place))


def parse_suite(text: str, where: str) -> Suite:
    """Read a suite from YAML; SuiteError, which begins with ``where``, says what is wrong with it."""
    try:
        data = read_yaml(text, where)
    except VitqError as error:
        raise SuiteError(str(error)) from None
    if not isinstance(data, Mapping):
        raise SuiteError(f"{where}: a suite is 'key: value' lines with name, images, validation, models, recipes, bits")
    try:
        suite = Suite.model_validate(data)
    except ValidationError as error:
        raise SuiteError(f"{where}: {_problem(error)}") from None
    _check_names(suite, where)
    return suite


def _problem(error: ValidationError) -> str:
    """Say what is wrong first; of an unknown key, which one may be meant."""
    problem = error.errors(include_url=False)[0]
    *parents, last = [shorten(str(part)) for part in problem["loc"]] or ["the suite"]
    place = ".".join((*parents, last))
    if problem["type"] != "extra_forbidden":
        return f"'{place}': {problem['msg']}"
    kinds: dict[str, type[Strict]] = {
        "models": ModelEntry, "recipes": RecipeEntry, "published": Published, "claims": Claim,
    }  # fmt: skip
    kind = kinds.get(parents[0], Suite) if parents else Suite
    return f"unknown key '{place}'{did_you_mean(last, kind.model_fields)}"


def _check_names(suite: Suite, where: str) -> None:
    """Raise SuiteError where a suite speaks of a model, a recipe or bits that it does not have."""
    if FLOATING in suite.recipes:
        raise SuiteError(f"{where}: no recipe can be called '{FLOATING}', which every suite measures; rename it")
    bits = {*suite.bits, *(own for recipe in suite.recipes.values() for own in recipe.bits or ())}
    asked: list[tuple[str, str, Collection[str], str]] = [
        *(("models", name, suite.models, f"recipes.{k}") for k, r in suite.recipes.items() for name in r.models or ()),
        *(("recipes", name, suite.recipes, "claims") for claim in suite.claims for name in (claim.better, claim.than)),
        *(("bits", name, bits, "claims") for claim in suite.claims for name in claim.bits or ()),
        *(("models", name, suite.models, f"published {p.name}") for p in suite.published for name in p.scores),
    ]  # fmt: skip
    for kind, name, known, place in asked:
        if name not in known:
            raise SuiteError(f"{where}: {place} names '{shorten(name)}' of {kind}{did_you_mean(name, known)}")
    for claim in suite.claims:
        if claim.better == claim.than:
            raise SuiteError(f"{where}: a claim compares '{claim.better}' with itself; name two recipes")

"""The cells of a suite: one model, recipe, bits, budget and seed each, addressed by all that decides their result."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from vitq._version import __version__
from vitq.artifact.files import digest, shown, to_json_bytes
from vitq.bits import Bits
from vitq.data import open_images
from vitq.data.batches import require_labels
from vitq.data.splits import is_split
from vitq.errors import SuiteError, VitqError
from vitq.recipes.auto import choose
from vitq.recipes.bit_table import is_table, read_table
from vitq.recipes.for_target import recipe_for
from vitq.run.synthetic import is_generated
from vitq.suites.digests import digest_of_file, digest_of_images, digest_of_model
from vitq.suites.suite import FLOATING, ModelEntry, RecipeEntry, Suite

FLOATING_BITS = "w32a32"


@dataclass(frozen=True)
class Cell:
    """One measurement; ``call`` is what a worker is told to do, ``key`` the hash of what decides its result."""

    model: str
    recipe: str
    bits: str
    budget: str
    seed: int
    call: Mapping[str, Any] = field(repr=False, compare=False)
    key: str = field(repr=False)

    @property
    def name(self) -> str:
        """Short name for people."""
        if self.recipe == FLOATING:
            return f"{self.model}, {FLOATING}"
        return f"{self.model}, {self.recipe} {self.bits}, {self.budget}, seed {self.seed}"

    @property
    def place(self) -> dict[str, Any]:
        """Where it stands in the suite."""
        return {
            "model": self.model, "recipe": self.recipe, "bits": self.bits, "budget": self.budget, "seed": self.seed,
        }  # fmt: skip

    @property
    def place_key(self) -> tuple[str, str, str, str, int]:
        """The same as one value."""
        return (self.model, self.recipe, self.bits, self.budget, self.seed)


def cells_of(suite: Suite, folder: Path, data: Path | None = None) -> tuple[Cell, ...]:
    """Return the cells of a suite whose file lies in ``folder``: floating point first, then seed by seed.

    ``data`` stands for the suite's own. Raises SuiteError where images, labels, weights, recipes or bits are missing.
    """
    digest_of_file.cache_clear()  # files may have changed since the last call
    digest_of_images.cache_clear()
    base = data or folder / suite.data
    shared: dict[str, Any] = {
        "images": _place(base, suite.images, "images"),
        "validation": _labelled(_place(base, suite.validation, "validation")),
        "limit": suite.limit,
        "validation_limit": suite.validation_limit,
        "task": suite.task,
    }
    common = {
        **shared,
        "vitq": __version__,
        "images": digest_of_images(Path(shared["images"])),
        "validation": digest_of_images(Path(shared["validation"])),
    }
    cells = [
        _floating(name, entry, {**shared, **_model(entry, base)}, {**common, **_model_about(entry, base)})
        for name, entry in suite.models.items()
    ]
    held_out, about_them = _held_out(suite, shared["images"], common["images"])
    for seed, bits, budget, (label, recipe), (name, entry) in _grid(suite):
        images, their_digest = _images(recipe, base)
        limit = {} if recipe.limit is None else {"limit": recipe.limit}
        call = {**shared, **held_out, **images, **limit, **_model(entry, base)}
        about = {**common, **about_them, **their_digest, **limit, **_model_about(entry, base)}
        cells.append(_cell(name, label, recipe, bits, budget, seed, call, about, folder))
    return tuple(dict.fromkeys(cells))


def _grid(suite: Suite) -> Iterator[tuple[int, str, str, tuple[str, RecipeEntry], tuple[str, ModelEntry]]]:
    """Walk through what is wanted: the first seed of everything comes before the second of anything."""
    seeds = sorted({*suite.seeds, *(seed for recipe in suite.recipes.values() for seed in recipe.seeds or ())})
    bits = tuple(dict.fromkeys((*suite.bits, *(own for r in suite.recipes.values() for own in r.bits or ()))))
    budgets = tuple(dict.fromkeys((*suite.budgets, *(own for r in suite.recipes.values() for own in r.budgets or ()))))
    for seed, width, budget, recipe, model in product(
        seeds, bits, budgets, suite.recipes.items(), suite.models.items()
    ):
        own = recipe[1]
        wanted = (
            seed in (own.seeds or suite.seeds),
            width in (own.bits or suite.bits),
            budget in (own.budgets or suite.budgets),
            own.models is None or model[0] in own.models,
        )
        if all(wanted):
            yield seed, width, budget, recipe, model


def _cell(
    name: str,
    label: str,
    entry: RecipeEntry,
    bits: str,
    budget: str,
    seed: int,
    call: Mapping[str, Any],
    about: Mapping[str, Any],
    folder: Path,
) -> Cell:
    recipe = entry.recipe or label
    recipe = str(folder / recipe) if recipe.endswith((".yaml", ".yml")) else recipe
    where = f"recipe '{label}', {bits}, budget '{budget}'"
    try:
        table = is_table(bits)
        given = read_table(folder / bits) if table else Bits.parse(bits)
        chosen, target = choose(recipe, given, entry.scope, entry.target, entry.set)
        plan = recipe_for(chosen, budget, entry.scope, target, entry.set)
    except VitqError as error:
        raise SuiteError(f"{where}: {error}") from error
    own = {
        "recipe": recipe, "bits": str(folder / bits) if table else str(given), "budget": budget, "scope": entry.scope,
        "target": entry.target, "views": entry.views, "overrides": dict(entry.set), "seed": seed,
    }  # fmt: skip
    asked = digest_of_file(folder / bits) if table else str(given)
    made = {"recipe": plan.to_dict(), "bits": asked, "target": target, "views": entry.views, "seed": seed}
    return Cell(name, label, bits if table else str(given), budget, seed, {**call, **own}, _key({**about, **made}))


def _floating(name: str, entry: ModelEntry, call: Mapping[str, Any], about: Mapping[str, Any]) -> Cell:
    own = {"recipe": None}
    return Cell(
        name, FLOATING, FLOATING_BITS, "", 0, {**call, **own}, _key({**about, **own, "limit": None, "images": None})
    )


def _model(entry: ModelEntry, base: Path) -> dict[str, Any]:
    folder = base / entry.model
    return {
        "model": str(folder) if folder.is_dir() else entry.model,
        "weights": entry.weights if entry.weights in (None, "random") else _place(base, entry.weights, "weights"),
        "num_classes": entry.num_classes,
        "preprocessing": dict(entry.preprocessing) or None,
    }


def _model_about(entry: ModelEntry, base: Path) -> dict[str, Any]:
    found = _model(entry, base)
    path = found["weights"]
    folder = Path(found["model"])
    local = digest_of_model(folder) if folder.is_dir() else entry.model
    weights = path if path in (None, "random") else digest_of_file(Path(path))
    return {**found, "model": local, "weights": weights}


def _images(entry: RecipeEntry, base: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return a recipe's own calibration images, and their digest; nothing where the suite's are meant."""
    if entry.images is None:
        return {}, {}
    if is_generated(entry.images):
        return {"images": entry.images}, {"images": entry.images}
    place = _place(base, entry.images, "images")
    return {"images": place}, {"images": digest_of_images(Path(place))}


def _held_out(suite: Suite, images: str, their_digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which images no recipe is given, and what tells them from others; nothing where there are none."""
    count = suite.held_out
    if count is None:
        return {}, {}
    if count >= (known := len(open_images(images, labels=False))):
        raise SuiteError(f"held_out: {count} of {known} images leave none for recipes; hold fewer out")
    return {"held_out": {"images": images, "count": count}}, {"held_out": {"images": their_digest, "count": count}}


def _place(base: Path, path: str, what: str) -> str:
    place = base / path
    if not place.exists() and not is_split(place):
        raise SuiteError(f"{what} '{shown(place)}': no such folder or file; name the folder that holds it with --data")
    return str(place.resolve())


def _labelled(place: str) -> str:
    """Return the place of validation images, all of which have labels."""
    try:
        require_labels(open_images(place))
    except VitqError as error:
        raise SuiteError(f"validation '{shown(Path(place))}': {error}") from error
    return place


def _key(about: Mapping[str, Any]) -> str:
    return digest(to_json_bytes(about))

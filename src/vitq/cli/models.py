"""``vitq models``: names that can be given to ``vitq quantize``."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.cli.console import note, print_json, show, write
from vitq.cli.errors import guarded
from vitq.cli.families import BOTH, FAMILIES, Family
from vitq.cli.options import AsJson

TESTED = (
    "beit",
    "cait",
    "convnext",
    "deit",
    "eva02",
    "hiera",
    "levit",
    "maxvit",
    "mobilevit",
    "pvt_v2",
    "swin",
    "swinv2",
    "tiny_vit",
    "vit",
)
"""timm families, the part of a name before the size, whose captured graph is tested to equal the model."""

SAVED = dict.fromkeys(("beit", "levit", "swin", "swinv2", "vit"), BOTH)
"""Those of them that go the whole way, with the runtimes that their files are proven in."""


@guarded
def models(
    pattern: Annotated[
        str,
        typer.Argument(help="Part of a name, or a pattern with * and ?, such as 'deit*224'. Default: all."),
    ] = "",
    tested: Annotated[bool, typer.Option("--tested", help="Only families that vitq's own tests cover.")] = False,
    sites: Annotated[
        bool,
        typer.Option("--sites", help="What every site of one model costs: elements, multiply-accumulates, bytes."),
    ] = False,
    scope: Annotated[str, typer.Option(help="The sites of --sites: those of scope paper, deploy or full.")] = "paper",
    as_json: AsJson = False,
) -> None:
    """List timm's model names that match; a * marks families that vitq's tests cover.

    With --tested families of every source come first, with the task that is found and what is proven of each. Hugging
    Face models are named by id ('owner/name'), local ones by folder. With --sites the argument is
    one model, as in 'vitq quantize', whose weights are not needed.
    """
    if sites:
        _sites(pattern, scope, as_json)
        return
    from vitq.errors import ModelError
    from vitq.models import list_models

    names = [name for name in list_models(pattern) if not tested or is_tested(name)]
    families = [one for one in known_families() if tested and pattern.strip("*").lower() in one.name.lower()]
    if as_json:
        found: dict[str, Any] = {"models": [{"name": name, "tested": is_tested(name)} for name in names]}
        print_json({**found, "families": [asdict(one) for one in families]} if tested else found)
        return
    if not names and not families:
        raise ModelError(f"no timm model matches '{pattern}'; try a shorter part of the name")
    if families:
        show(families_table(families))
    for name in names:
        write(f"{'*' if is_tested(name) else ' '} {name}")
    note(f"{len(names)} models; * belongs to a family that vitq's tests cover")


def known_families() -> tuple[Family, ...]:
    """Return the families that vitq's tests cover, classifiers of timm first."""
    return (*(Family(name, "timm", "classes", name in SAVED, SAVED.get(name, ())) for name in TESTED), *FAMILIES)


def families_table(families: Sequence[Family]) -> Table:
    """Return what is proven of each family."""
    table = Table(box=box.SIMPLE_HEAD, title="Families that vitq's tests cover", title_justify="left")
    for column in ("family", "from", "task", "all outputs equal", "W8A8 saved and read", "file proven in"):
        table.add_column(column)
    for one in families:
        cells = (one.name, one.source, one.task, "yes", "yes" if one.saved else "-", ", ".join(one.files) or "-")
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _sites(model: str, scope: str, as_json: bool) -> None:
    """Print what the sites of one model cost."""
    from vitq.errors import ArgumentError
    from vitq.report.costs import costs_table, model_costs

    if not model:
        raise ArgumentError("--sites is about one model: name it")
    costs, names = model_costs(model, scope)
    if as_json:
        rows = [asdict(costs.sites[name]) for name in names]
        print_json({"model": model, "macs": costs.macs, "sites": rows})
        return
    show(costs_table(costs, names, f"{model}, scope {scope}"))


def is_tested(name: str) -> bool:
    """Tell whether a timm name belongs to a tested family."""
    return any(name == family or name.startswith(f"{family}_") for family in TESTED)

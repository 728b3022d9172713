"""``vitq models``: names that can be given to ``vitq quantize``."""

from typing import Annotated

import typer

from vitq.cli.console import note, print_json, show, write
from vitq.cli.errors import guarded
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

    Hugging Face image classifiers are named by id ('owner/name'), local ones by folder. With --sites the argument is
    one model, as in 'vitq quantize', whose weights are not needed.
    """
    if sites:
        _sites(pattern, scope, as_json)
        return
    from vitq.errors import ModelError
    from vitq.models import list_models

    names = [name for name in list_models(pattern) if not tested or is_tested(name)]
    if as_json:
        print_json({"models": [{"name": name, "tested": is_tested(name)} for name in names]})
        return
    if not names:
        raise ModelError(f"no timm model matches '{pattern}'; try a shorter part of the name")
    for name in names:
        write(f"{'*' if is_tested(name) else ' '} {name}")
    note(f"{len(names)} models; * belongs to a family that vitq's tests cover")


def _sites(model: str, scope: str, as_json: bool) -> None:
    """Print what the sites of one model cost."""
    from dataclasses import asdict

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

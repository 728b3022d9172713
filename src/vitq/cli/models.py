"""``vitq models``: names that can be given to ``vitq quantize``."""

from typing import Annotated

import typer

from vitq.cli.console import note, print_json, write
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
    as_json: AsJson = False,
) -> None:
    """List timm's model names that match; a * marks families that vitq's tests cover.

    Hugging Face image classifiers are named by id ('owner/name'), local ones by folder.
    """
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


def is_tested(name: str) -> bool:
    """Tell whether a timm name belongs to a tested family."""
    return any(name == family or name.startswith(f"{family}_") for family in TESTED)

"""``vitq granularity``: the outliers of a model over its depth, and which slicing a short trial prefers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vitq.cli.console import note, print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import (
    AsJson,
    CropPct,
    Device,
    Limit,
    Model,
    NumClasses,
    Override,
    Quiet,
    Seed,
    Weights,
    preprocessing_from,
)


@guarded
def granularity(
    model: Model,
    images: Annotated[str, typer.Option(metavar="DIR", help="Calibration images, as in 'vitq quantize'.")],
    weights: Weights = None,
    recipe: Annotated[str, typer.Option(help="A recipe that chooses a slicing, or a .yaml file of your own.")] = "oas",
    bits: Annotated[str, typer.Option(help="Bits of weights and activations in the trials.")] = "w3a3",
    budget: Annotated[str, typer.Option(help="The recipe's budget: quick or full.")] = "quick",
    limit: Limit = 1000,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Also save the plots as an .svg file.")] = None,
    override: Override = None,
    seed: Seed = 0,
    device: Device = "auto",
    num_classes: NumClasses = None,
    crop_pct: CropPct = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show where a model's outliers are and which slicing into segments suits it.

    Example: vitq granularity deit_tiny_patch16_224 --images photos/ --bits w3a3
    """
    from vitq.arguments import PATH, check
    from vitq.recipes import parse_assignments
    from vitq.report.slicing import check_svg

    overrides = parse_assignments(override or [])
    if out is not None:
        check_svg(Path(check("out", out, PATH)))

    import vitq

    choice = vitq.granularity(
        model,
        images,
        recipe=recipe,
        bits=bits,
        budget=budget,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing_from(crop_pct),
        limit=limit,
        overrides=overrides,
        seed=seed,
        device=device,
        progress=not quiet,
    )
    from vitq.report.slicing import plots, save_svg

    if out is not None:
        save_svg(Path(out), choice)
    if as_json:
        segments = [piece.span.name for piece in choice.best.pieces]
        outliers = [asdict(place) for place in choice.profile]
        print_json({"outliers": outliers, "scores": choice.scores, "best": choice.best.name, "segments": segments})
        return
    show(plots(choice))
    note(f"best slicing: {choice.best.name}, {len(choice.best.pieces)} segments" + (f"; saved {out}" if out else ""))

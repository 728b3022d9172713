"""``vitq evaluate``: accuracy of an artifact or of a floating-point model."""

import dataclasses
from typing import Annotated

import typer

from vitq.cli.console import print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import (
    AsJson,
    BatchSize,
    CropPct,
    Device,
    NumClasses,
    Quiet,
    Weights,
    preprocessing_from,
)


@guarded
def evaluate(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH_OR_MODEL", help="An artifact's folder, or a model as in 'vitq quantize'."),
    ],
    images: Annotated[
        str,
        typer.Option(metavar="DIR", help="Labelled images: a folder (labels.csv or class folders) or a .npz file."),
    ],
    weights: Weights = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many images, evenly spaced. Default: all.")] = None,
    batch_size: BatchSize = 32,
    integer: Annotated[
        bool, typer.Option("--integer", help="Run an artifact's products in integer arithmetic, not as a simulation.")
    ] = False,
    device: Device = "auto",
    num_classes: NumClasses = None,
    crop_pct: CropPct = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure top-1 and top-5 accuracy in percent; of a model with one output, the accuracy of its sign.

    Example: vitq evaluate runs/deit --images validation/
    """
    from vitq import api

    metrics = api.evaluate(
        target,
        images,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing_from(crop_pct),
        limit=limit,
        batch_size=batch_size,
        integer=integer,
        device=device,
        progress=not quiet,
    )
    result = dataclasses.asdict(metrics)
    if as_json:
        print_json(result)
        return
    from vitq.report.units import number, percent

    words = {"top1": "top-1", "top5": "top-5", "agreement": "agreement with floating point"}
    measured = [f"{word} {percent(result[key])}" for key, word in words.items() if result.get(key) is not None]
    measured += [f"{word} {number(value)}" for word, value in (result.get("scores") or {}).items()]
    said = ", ".join(measured) or "nothing to measure: the output is no row of class scores"
    show(f"{said} ({result['images']:,} images)")

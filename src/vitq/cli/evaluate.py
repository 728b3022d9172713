"""``vitq evaluate``: what an artifact or a floating-point model scores."""

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
    Task,
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
        typer.Option(
            metavar="DIR",
            help="Labelled images: a folder (labels.csv, class folders, images and masks), COCO .json or .npz file.",
        ),
    ],
    task: Task = None,
    weights: Weights = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many images, evenly spaced. Default: all.")] = None,
    batch_size: BatchSize = 32,
    integer: Annotated[
        bool, typer.Option("--integer", help="Run an artifact's products in integer arithmetic, not as a simulation.")
    ] = False,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Also measure the model that the artifact was made of (with --weights where it came from a file), and "
            "show what was lost: top-1, top-5, calibration, classes, intervals.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=256, help="Processes that decode; 0 for threads of this one. Default: some from 2,000 images on."
        ),
    ] = None,
    device: Device = "auto",
    num_classes: NumClasses = None,
    crop_pct: CropPct = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure what the model's task scores: top-1 and top-5, mIoU, errors of maps, neighbours of features, COCO's mAP.

    Example: vitq evaluate runs/deit --images validation/
    """
    from vitq import api

    metrics = api.evaluate(
        target,
        images,
        task=task,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing_from(crop_pct),
        limit=limit,
        batch_size=batch_size,
        integer=integer,
        baseline=baseline,
        workers=workers,
        device=device,
        progress=not quiet,
    )
    result = dataclasses.asdict(metrics)
    if as_json:
        print_json(result)
        return
    if baseline:
        from vitq.cli.baseline import baseline_tables

        show(baseline_tables(metrics))
        return
    from vitq.report.units import label, score

    found = {**{name: result[name] for name in ("top1", "top5", "agreement")}, **(result.get("scores") or {})}
    measured = [f"{label(name)} {score(name, value)}" for name, value in found.items() if value is not None]
    said = (
        ", ".join(measured) or "nothing to measure: the output is no row of class scores; name what it is with --task"
    )
    show(f"{said} ({result['images']:,} images)")

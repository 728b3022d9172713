"""``vitq diagnose``: a look at a model before it is quantized."""

from pathlib import Path
from typing import Annotated

import typer

from vitq.cli.console import note, print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, CropPct, Device, Model, NumClasses, Quiet, Seed, Task, Weights, preprocessing_from
from vitq.cli.quantize import default_out


@guarded
def diagnose(
    model: Model,
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Images as in 'vitq quantize'; labels are used where every one has one.")
    ],
    bits: Annotated[str, typer.Option(help="Bits at which sites are left out in turn.")] = "w4a4",
    scope: Annotated[str, typer.Option(help="Which tensors are quantized: paper, deploy or full.")] = "paper",
    weights: Weights = None,
    task: Task = None,
    limit: Annotated[int, typer.Option(min=2, help="How many images to look at.")] = 64,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The page. Default: runs/MODEL-diagnosis-BITS.html.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    num_classes: NumClasses = None,
    crop_pct: CropPct = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say, before anything is quantized, whether the preprocessing fits, and which sites will be hard and why.

    Example: vitq diagnose deit_tiny_patch16_224 --images photos/ --bits w4a4

    It takes two to three minutes of one CPU core for a model of DeiT-Tiny's size.
    """
    from vitq.arguments import PATH, check

    page = Path(f"{default_out(model, 'diagnosis', bits)}.html") if out is None else Path(check("out", out, PATH))

    import vitq

    found = vitq.diagnose(
        model,
        images,
        bits=bits,
        scope=scope,
        weights=weights,
        task=task,
        num_classes=num_classes,
        preprocessing=preprocessing_from(crop_pct),
        limit=limit,
        seed=seed,
        device=device,
        out=page,
        progress=not quiet,
    )
    if as_json:
        print_json({"page": page, **found.to_dict()})
        return
    from vitq.report.diagnosis import diagnosis_table

    try:
        show(diagnosis_table(found))
    finally:
        note(f"saved {page}")

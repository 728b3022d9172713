"""Options that several verbs share."""

from typing import Annotated

import typer

from vitq.export.targets import Cpu

AsJson = Annotated[bool, typer.Option("--json", help="Print the result (or the error) as one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no scope table, only the result.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto (a GPU if there is one), cpu, cuda, or cuda:1.")]
Model = Annotated[str, typer.Argument(help="A model as in 'vitq quantize'.")]
Limit = Annotated[int, typer.Option(min=1, help="How many calibration images to draw.")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Weights of the model: .safetensors, or .pth (read without running code in it). "
        "'random' draws seeded weights, for speed tests. Default: the model's published ones.",
    ),
]
FloatingWeights = Annotated[
    str | None, typer.Option(metavar="FILE", help="Weights of --floating. Default: the model's published ones.")
]
ForCpu = Annotated[
    Cpu,
    typer.Option(help="The x86 CPUs that files are for: any, or vnni, which keeps int8 weights of 8 bits."),
]
NumClasses = Annotated[
    int | None, typer.Option(min=1, help="Outputs of a fine-tuned head. Default: as in the published model.")
]
CropPct = Annotated[
    float | None,
    typer.Option(
        min=0.05,
        max=1.0,
        help="Share of the image that the centre crop keeps, 0 to 1. Default: the model's own.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice; same seed, same result.")]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a recipe's key, for example reconstruct.steps=500 or calibrate.weights=mse; "
        "may be given several times.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(help="Calibrate for a target of 'vitq export': scope deploy by default, symmetric weights."),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the outputs mean: classes, features, dense, boxes, boxes-sigmoid or values. "
        "Default: found from the model where that is certain, and printed.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]


def preprocessing_from(crop_pct: float | None) -> dict[str, float] | None:
    """Return what replaces values of the model's own preprocessing, or None."""
    return None if crop_pct is None else {"crop_pct": crop_pct}

"""``vitq quantize``: from a model and images to a saved artifact."""

import re
from pathlib import Path
from typing import Annotated

import typer

from vitq.cli.console import note, print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import (
    AsJson,
    CropPct,
    Device,
    ForCpu,
    Limit,
    NumClasses,
    Override,
    Quiet,
    Seed,
    Target,
    Task,
    Weights,
    preprocessing_from,
)
from vitq.export.targets import Cpu


@guarded
def quantize(
    model: Annotated[str, typer.Argument(help="A timm name, a Hugging Face id 'owner/name', or a local model folder.")],
    images: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Calibration images, labels not needed: a folder (flat or of class folders) or .npz. Where there are "
            "none: synthetic, made from the model alone (PSAQ-ViT), or noise, the last resort.",
        ),
    ],
    weights: Weights = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="auto, a recipe's name ('vitq recipes' lists them) or a .yaml file of your own. auto calibrates "
            "(repq) at 6 bits and more, for target onnxruntime where no scope is given, and trains (mgrq) below."
        ),
    ] = "auto",
    bits: Annotated[
        str,
        typer.Option(
            help="Bits of weights and activations: w4a4, w8a8, w3a8 ... 2 to 8 each; or the .yaml file of a bit table, "
            "as 'vitq allocate' writes it."
        ),
    ] = "w8a8",
    fit_mb: Annotated[
        float | None,
        typer.Option(
            metavar="MB",
            help="Choose the bits of every site so that the tensors fit so many megabytes, as 'vitq allocate'.",
        ),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Choose what stays in floating point, or with --fit-mb all bits, so that no more of the score is "
            "expected to be lost.",
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="quick (minutes on a CPU), full (for a GPU), or fast where the recipe has it, as vitq; what it means "
            "is in the recipe."
        ),
    ] = "quick",
    scope: Annotated[
        str | None,
        typer.Option(
            help="Which tensors are quantized: paper (linears, convs, matmuls), deploy (no matmuls) or full "
            "(also what norms, softmax, activations and residual sums read). "
            "Default: the recipe's, else the target's, else paper."
        ),
    ] = None,
    target: Target = None,
    cpu: ForCpu = Cpu.ANY,
    task: Task = None,
    limit: Limit = 1000,
    views: Annotated[
        int, typer.Option(min=1, help="Views of each calibration image; those after the first are augmented.")
    ] = 1,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Labelled images to measure accuracy on, before and after."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the artifact, the log and the checkpoints. Default: runs/MODEL-RECIPE-BITS."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the stopped run in --out.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what --out already holds, finished or stopped.")
    ] = False,
    override: Override = None,
    seed: Seed = 0,
    device: Device = "auto",
    num_classes: NumClasses = None,
    crop_pct: CropPct = None,
    inside: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Quantize only this part of a Hugging Face model, such as vision_model, on what it receives.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a model and save it.

    Example: vitq quantize deit_tiny_patch16_224 --images photos/ --out runs/deit

    Without more it is calibrated to 8 bits for ONNX Runtime, in about a minute, and says what 4 bits would cost.
    """
    from vitq.bits import Bits
    from vitq.recipes import parse_assignments
    from vitq.recipes.auto import choose
    from vitq.recipes.bit_table import is_table, read_table

    overrides = parse_assignments(override or [])
    asked = read_table(bits) if is_table(bits) else Bits.parse(bits)  # a typing error is told before slow imports
    goal = "-".join(f"{word}{value:g}" for word, value in (("fit", fit_mb), ("within", within)) if value is not None)
    name = recipe if goal else str(choose(recipe, asked, scope, target, overrides)[0])
    named = model if inside is None else f"{model.rstrip('/')}_{inside}"
    folder: str | Path = default_out(named, name, goal or bits)
    if out is not None:
        folder = Path(out) if out.strip() else out  # Path("") is the working directory, which nobody asked for

    from vitq import api

    quantized = api.quantize(
        model,
        images,
        recipe=recipe,
        bits=bits,
        fit_mb=fit_mb,
        within=within,
        budget=budget,
        scope=scope,
        target=target,
        cpu=cpu,
        task=task,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing_from(crop_pct),
        limit=limit,
        views=views,
        overrides=overrides,
        seed=seed,
        device=device,
        out=folder,
        resume=resume,
        overwrite=overwrite,
        validation=validation,
        inside=inside,
        progress=not quiet,
    )
    if as_json:
        print_json({"path": folder, "bits": quantized.artifact.config.bits, **quantized.metrics.to_dict()})
        return
    from vitq.report import closing_table

    try:
        show(closing_table(quantized.artifact))
    finally:
        use = f"vitq evaluate {folder} --images DIR, or in Python: vitq.load({str(folder)!r})"
        note(f"saved in {folder}; use it: {use}")


def default_out(model: str, recipe: str, bits: str) -> Path:
    """Return ``runs/MODEL-RECIPE-BITS`` with names that are safe for files."""
    known = bits.strip()
    table = Path(known).stem if known.endswith((".yaml", ".yml")) else known.lower()
    parts = (model.rstrip("/").rpartition("/")[2], Path(recipe).stem, table)
    return Path("runs") / "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)

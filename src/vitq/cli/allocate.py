"""``vitq allocate``: which site gets how many bits, under a budget."""

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
from vitq.cli.quantize import default_out
from vitq.export.targets import Cpu


@guarded
def allocate(
    model: Annotated[
        str,
        typer.Argument(
            help="A model as in 'vitq quantize'; or the folder of an earlier allocation, which needs no images."
        ),
    ],
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Calibration images, as in 'vitq quantize'.")
    ] = None,
    average_bits: Annotated[
        str | None,
        typer.Option(help="Largest average of weights and of activations: 4.5, or w3a4.5, w3 or a6 (others 8)."),
    ] = None,
    size_mb: Annotated[float | None, typer.Option(help="Largest size of the stored tensors, in megabytes.")] = None,
    bit_ops: Annotated[
        float | None, typer.Option(help="Most bit operations per image: multiply-accumulates x bits x bits.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            help="Most of the score to lose, in percent, with the fewest bit operations: "
            "alone, which linears of a W8A8 model stay in floating point."
        ),
    ] = None,
    solver: Annotated[
        str,
        typer.Option(help="program, greedy, or evolutionary and quantune, which measure whole models."),
    ] = "program",
    by: Annotated[
        str,
        typer.Option(help="What must move least: output, feature, or proxy (from gradients; quickest to measure)."),
    ] = "output",
    pairs: Annotated[bool, typer.Option("--pairs", help="Also count what sites of a block move together.")] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB=BITS", help="Give sites fixed bits, such as 'head/*=8'; may be given several times."
        ),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Bits to choose from, separated by commas; 32 is floating point. Default: 2,3,4,5,6,8, "
            "and 32 with --within; 8,32 with --within alone."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Whole models that evolutionary and quantune measure.")] = 64,
    weights: Weights = None,
    recipe: Annotated[str, typer.Option(help="The recipe that calibrates, or a .yaml file of your own.")] = "repq",
    bits: Annotated[
        str | None,
        typer.Option(
            help="Bits that the recipe's rewrites are made for. Default: w4a4; w8a8 for candidates of 8 bits."
        ),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Which tensors get bits: paper, deploy or full. Default: as in 'vitq quantize'.")
    ] = None,
    target: Target = None,
    cpu: ForCpu = Cpu.ANY,
    task: Task = None,
    limit: Limit = 32,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the trials, the bit table and its page. Default: runs/MODEL-RECIPE-allocate."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure anew what --out already holds.")] = False,
    override: Override = None,
    seed: Seed = 0,
    device: Device = "auto",
    num_classes: NumClasses = None,
    crop_pct: CropPct = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Choose the bits of every site so that a budget is met and the model's output moves least.

    Trials are kept in --out: a stopped run goes on there, and that folder in place of MODEL answers another budget
    without new ones. Example: vitq allocate deit_tiny_patch16_224 --images photos/ --average-bits 4.5
    """
    from vitq.allocation.files import is_allocation
    from vitq.recipes import parse_assignments

    overrides = parse_assignments(override or [])
    kept = _kept(keep or [])
    widths = None if candidates is None else _widths(candidates)
    known = is_allocation(Path(model))
    folder = Path(out or (model if known else default_out(model, recipe, "allocate")))

    import vitq

    allocation = vitq.allocate(
        model,
        images,
        average_bits=average_bits,
        size_mb=size_mb,
        bit_ops=bit_ops,
        within=within,
        solver=solver,
        by=by,
        pairs=pairs,
        keep=kept,
        candidates=widths,
        trials=trials,
        recipe=recipe,
        bits=bits,
        scope=scope,
        target=target,
        cpu=cpu,
        task=task,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing_from(crop_pct),
        limit=limit,
        overrides=overrides,
        seed=seed,
        device=device,
        out=None if known else folder,
        overwrite=overwrite,
        progress=not quiet,
    )
    from vitq.report.allocation import allocation_tables, write_allocation

    table = allocation.save(folder)
    page = write_allocation(table.with_suffix(".html"), allocation)
    if as_json:
        print_json(
            {
                "table": table,
                "page": page,
                "solver": solver,
                "limits": dict(allocation.problem.limits),
                "costs": allocation.costs,
                "expected": allocation.point.distance,
                "expected_loss": allocation.expected_loss,
                "measured": allocation.measured,
                "bits": dict(allocation.bits),
                "curve": [asdict(point) for point in allocation.curve],
            }
        )
        return
    try:
        show(allocation_tables(allocation))
    finally:
        note(f"saved {table} and {page.name}; use it: vitq quantize MODEL --images DIR --bits {table}")


def _kept(texts: list[str]) -> dict[str, int]:
    from vitq.errors import ArgumentError

    found: dict[str, int] = {}
    for text in texts:
        pattern, equals, width = text.rpartition("=")
        if not equals or not pattern or not _is_width(width):
            raise ArgumentError(f"--keep takes GLOB=BITS, such as 'head/*=8', not '{text[:80]}'")
        found[pattern] = int(width)
    return found


def _widths(text: str) -> tuple[int, ...]:
    from vitq.errors import ArgumentError

    parts = text.split(",")
    if not all(map(_is_width, parts)):
        raise ArgumentError(f"--candidates takes whole numbers with commas between, such as 2,4,8, not '{text[:80]}'")
    return tuple(int(part) for part in parts)


def _is_width(text: str) -> bool:
    """Tell whether ``int`` reads a number of at most two digits; ``str.isdigit`` holds for '²' too."""
    return text.strip().isdecimal() and len(text.strip()) < 3

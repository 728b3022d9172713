"""``vitq demo``: plain rounding fails and MGRQ recovers, offline, on a small model that comes with vitq."""

from pathlib import Path
from typing import Annotated

import typer

from vitq.cli.console import note, print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, Quiet, Seed

RECIPES = ("rtn", "mgrq")
BITS = "w2a2"
IMAGES = 512
STEPS = {"reconstruct.steps": 30}
"""Enough for a model this small, and quick."""


@guarded
def demo(
    out: Annotated[str, typer.Option(help="Folder of the two artifacts.")] = "runs/demo",
    bits: Annotated[str, typer.Option(help="Bits of weights and activations.")] = BITS,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Quantize the embedded digits model with plain rounding and with MGRQ, and compare them."""
    import torch

    from vitq import api
    from vitq.arguments import PATH, check
    from vitq.demo import digits

    torch.set_num_threads(1)  # a second one saves a fifth, and costs minutes where another program has the core
    check("out", out, PATH)
    model, calibration, validation = digits()
    results = {}
    for recipe in RECIPES:
        if not quiet:
            note(f"{recipe}, {bits}: {IMAGES} calibration images, {len(validation[0])} to measure on")
        folder = Path(out) / f"{recipe}-{bits}"
        quantized = api.quantize(
            model,
            calibration,
            recipe=recipe,
            bits=bits,
            validation=validation,
            limit=IMAGES,
            overrides=STEPS if recipe == "mgrq" else {},
            seed=seed,
            out=folder,
            overwrite=True,
            progress=not quiet,
        )
        results[recipe] = quantized.artifact
    if as_json:
        heads = {recipe: {"path": Path(out) / f"{recipe}-{bits}", "bits": bits} for recipe in results}
        print_json({"results": {name: {**heads[name], **one.metrics.to_dict()} for name, one in results.items()}})
        return
    from vitq.report import comparison_table

    show(comparison_table(results, title="A vision transformer for handwritten digits"))
    note(f"saved in {out}; next, with your own model: vitq quantize MODEL --images DIR --out runs/mine")

"""Measure what calibration alone gives: rewrites and number formats, everything quantized, weights alone.

    python benchmarks/mptq.py run --data ../shared/data --jobs 2
    python benchmarks/mptq.py run --data ../shared/data --tables weights --models deit_tiny_patch16_224
    python benchmarks/mptq.py table

A row has top-1 on the validation images (not in the table ``starts``, which chooses), what 200 calibration images that
were not used say (KL to floating point and the error of the final feature), and the processor's seconds that quantizing
took. Rows that are in the results are not measured again.
"""

import argparse
import time
from pathlib import Path

from cells import Axes, Bench, add_options, print_tables, run_tables
from command import Row, run_or_table

from vitq.bits import Bits
from vitq.recipes import load_recipe
from vitq.run.events import Events
from vitq.run.pipeline import apply_steps

RESULTS = Path(__file__).parent / "results" / "mptq.jsonl"
CODEBOOK = {"insert.weight.format": "codebook"}
HESSIAN = {"calibrate.weights": "hessian", "calibrate.activations": "hessian"}
FULL = {"insert.scope": "full"}
GELU, PROBABILITIES = "insert.post_activation.format", "insert.probabilities.format"
TWIN = {GELU: "twin", PROBABILITIES: "twin"}
TABLES = {
    "activations": Axes(
        ("w4a4", "w6a6"),
        (0,),
        {
            "rtn": ("rtn", {}),
            "smoothquant": ("smoothquant", {}),
            "sq-b": ("sq-b", {}),
            "opt-m": ("rtn", {**TWIN, "calibrate.activations": "output"}),
            "mptq-vit": ("mptq-vit", {}),
            "mptq-vit by hessian": ("mptq-vit", HESSIAN),
            "ptq4vit": ("ptq4vit", {}),
            "noisyquant": ("noisyquant", {}),
            "adalog": ("adalog", {}),
            "repq": ("repq", {}),
        },
    ),
    "full": Axes(("w8a8", "w6a6"), (0,), {"fq-vit": ("fq-vit", {}), "mptq-vit": ("mptq-vit", FULL)}),
    "weights": Axes(
        ("w4a32", "w3a32", "w2a32"),
        (0,),
        {"rtn": ("rtn", {}), "pwlq": ("pwlq", {}), "subsetq": ("subsetq", {}), "codebook": ("rtn", CODEBOOK)},
    ),
    "starts": Axes(
        ("w4a4", "w3a3"),
        (0,),
        {
            "repq": ("repq", {}),
            **{f"repq, {name} behind GELUs": ("repq", {GELU: name}) for name in ("twin", "adalog")},
            **{
                f"repq, {name} probabilities": ("repq", {PROBABILITIES: name})
                for name in ("twin", "adalog", "shift_uniform_log2", "matthew")
            },
        },
    ),
}
"""Per table its bits and seeds, and the recipe and options of each row."""
CHOOSES = frozenset({"starts"})
"""Tables that choose a recipe's parts: no validation image is read for them."""


class Calibrated(Bench):
    """Measures recipes that only calibrate."""

    def one(self, cell: Row) -> Row:
        """Return seconds, what held-out images say, and top-1 but of tables that choose."""
        recipe, options = TABLES[cell["table"]].variants[cell["variant"]]
        began = time.process_time()
        with Events(None, console=False) as events:
            run = self.start(Bits.parse(cell["bits"]), cell["seed"], events)
            apply_steps(run, load_recipe(recipe, overrides=options).steps)
        row = {"seconds": round(time.process_time() - began, 1), **self.judge(run)}
        return row if cell["table"] in CHOOSES else {**row, **self.top1(run.student)}


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; each of ``--jobs`` processes has cells of one model."""
    run_tables(Calibrated, TABLES, chosen)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown."""
    print_tables(TABLES, chosen.results, "`{}`".format)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    add_options(parser, TABLES, list(TABLES))


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

"""Measure what calibration alone gives: rewrites and number formats, everything quantized, weights alone.

    python benchmarks/mptq.py run --data ../shared/data --jobs 2
    python benchmarks/mptq.py run --data ../shared/data --tables weights --models deit_tiny_patch16_224
    python benchmarks/mptq.py table

A row has top-1 on the validation images (not in the tables ``starts`` and ``massive tokens``), what 200 calibration
images that were not used say (KL to floating point and the error of the final feature), and the processor's seconds
that quantizing took. Rows that are in the results are not measured again.
"""

import argparse
import time
from pathlib import Path

from cells import Axes, Bench, add_options, print_tables, run_tables
from command import Row, run_or_table
from variants import Variant, rotate

from vitq.bits import Bits
from vitq.run.events import Events
from vitq.run.pipeline import apply_steps

RESULTS = Path(__file__).parent / "results" / "mptq.jsonl"
CODEBOOK = {"insert.weight.format": "codebook"}
HESSIAN = {"calibrate.weights": "hessian", "calibrate.activations": "hessian"}
FULL = {"insert.scope": "full"}
AS_OTHERS = {**FULL, "calibrate.outlier_tokens": False}
"""Everything quantized, massive tokens by the ranges of the others."""
GELU, PROBABILITIES = "insert.post_activation.format", "insert.probabilities.format"
TWIN = {GELU: "twin", PROBABILITIES: "twin"}
TABLES = {
    "activations": Axes(
        ("w4a4", "w6a6"),
        (0,),
        {
            "rtn": Variant("rtn"),
            "smoothquant": Variant("smoothquant"),
            "sq-b": Variant("sq-b"),
            "opt-m": Variant("rtn", options={**TWIN, "calibrate.activations": "output"}),
            "mptq-vit": Variant("mptq-vit"),
            "mptq-vit by hessian": Variant("mptq-vit", options=HESSIAN),
            "ptq4vit": Variant("ptq4vit"),
            "noisyquant": Variant("noisyquant"),
            "adalog": Variant("adalog"),
            "repq": Variant("repq"),
        },
    ),
    "full": Axes(("w8a8", "w6a6"), (0,), {"fq-vit": Variant("fq-vit"), "mptq-vit": Variant("mptq-vit", options=FULL)}),
    "massive tokens": Axes(
        ("w8a8",),
        (0,),
        {
            "nothing": Variant("rtn", options=AS_OTHERS),
            "ranges of their own": Variant("rtn", options=FULL),
            "smoothing": Variant("smoothquant", options=AS_OTHERS),
            "transfer behind norms": Variant("repq", options=AS_OTHERS),
            "rotation of the stream": Variant("rtn", options=AS_OTHERS, first=rotate(False, "ones")),
            "factors per channel": Variant("fq-vit", options={"calibrate.outlier_tokens": False}),
            "both": Variant("fq-vit"),
        },
    ),
    "weights": Axes(
        ("w4a32", "w3a32", "w2a32"),
        (0,),
        {
            "rtn": Variant("rtn"),
            "pwlq": Variant("pwlq"),
            "subsetq": Variant("subsetq"),
            "codebook": Variant("rtn", options=CODEBOOK),
        },
    ),
    "starts": Axes(
        ("w4a4", "w3a3"),
        (0,),
        {
            "repq": Variant("repq"),
            **{f"repq, {name} behind GELUs": Variant("repq", options={GELU: name}) for name in ("twin", "adalog")},
            **{
                f"repq, {name} probabilities": Variant("repq", options={PROBABILITIES: name})
                for name in ("twin", "adalog", "shift_uniform_log2", "matthew")
            },
        },
    ),
}
"""Per table its bits and seeds, and the steps of each row."""
OWN_PAGE = "massive tokens"
CHOOSES = frozenset({OWN_PAGE, "starts"})
"""Tables that choose a recipe's parts: no validation image is read for them."""


class Calibrated(Bench):
    """Measures recipes that only calibrate."""

    def one(self, cell: Row) -> Row:
        """Return seconds, what held-out images say, and top-1 but of tables that choose."""
        steps, began = TABLES[cell["table"]].variants[cell["variant"]].steps(), time.process_time()
        with Events(None, console=False) as events:
            run = self.start(Bits.parse(cell["bits"]), cell["seed"], events)
            apply_steps(run, steps)
        row = {"seconds": round(time.process_time() - began, 1), **self.judge(run)}
        return row if cell["table"] in CHOOSES else {**row, **self.top1(run.student)}


def run(chosen: argparse.Namespace) -> None:
    """Measure every cell that is not in the results yet; each of ``--jobs`` processes has cells of one model."""
    run_tables(Calibrated, TABLES, chosen)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown."""
    asked = {name: TABLES[name] for name in chosen.tables}
    print_tables(asked, chosen.results, str if chosen.tables == [OWN_PAGE] else "`{}`".format)


def views(parser: argparse.ArgumentParser) -> None:
    """Add what ``table`` takes."""
    others = [name for name in TABLES if name != OWN_PAGE]
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=others)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    add_options(parser, TABLES, list(TABLES))


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views)

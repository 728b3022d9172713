"""Compare number formats of one role: KL to floating point with only that role quantized, on unlabeled images.

    python benchmarks/roles.py --data ../shared/data --role post_activation --formats affine piecewise --bits w3a3

32 calibration images choose the scales, 64 others give the KL.
"""

import argparse
from pathlib import Path

import torch

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.data import draw_calibration, open_images
from vitq.graph import Graph, capture
from vitq.models import load_model
from vitq.rewrite import Smooth
from vitq.run.run import Run
from vitq.tasks.distances import divergence

SEARCHED, HELD_OUT = 32, 64


@torch.no_grad()
def logits(graph: Graph, x_NCHW: torch.Tensor) -> torch.Tensor:
    """Return logits_NK of ``graph``."""
    return torch.cat([graph(x) for x in x_NCHW.split(16)])


def only(graph: Graph, role: str) -> None:
    """Take every quantizer off ``graph`` but those of ``role``."""
    for name in list(graph.quantizers):
        if graph.sites[name].role != role:
            graph.remove(name)


def main() -> None:
    """Read the command line and print one line per format and bit-width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--role", default="post_activation")
    parser.add_argument("--granularity", default="tensor")
    parser.add_argument("--formats", nargs="+", default=["affine", "piecewise"])
    parser.add_argument("--bits", nargs="+", default=["w3a3"])
    parser.add_argument("--smooth", action="store_true", help="smooth outlier channels first")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    loaded = load_model(options.model, weights=options.data / "weights" / f"{options.model}.safetensors")
    source = open_images(options.data / "imagenet-calibration")
    images = draw_calibration(source, loaded.preprocessing, limit=SEARCHED + HELD_OUT, seed=options.seed)
    x_NCHW, held_out = images[:SEARCHED], images[SEARCHED:]
    teacher = capture(loaded.module, x_NCHW[:2])
    target = logits(teacher, held_out)
    for bits in options.bits:
        for name in options.formats:
            run = Run(teacher, teacher.clone(), x_NCHW, Bits.parse(bits))
            if options.smooth:
                Smooth().apply(run)
            Insert.model_validate({options.role: {"format": name, "granularity": options.granularity}}).apply(run)
            only(run.student, options.role)
            Calibrate(images=SEARCHED).apply(run)
            kl = float(divergence(logits(run.student, held_out), target))
            print(f"{options.model} {options.role} {bits} {name}: KL {kl:.4f}", flush=True)


if __name__ == "__main__":
    main()

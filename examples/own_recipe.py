"""Quantize with a recipe of your own, and compare it with the one that it extends.

    python examples/own_recipe.py
"""

from pathlib import Path

import torch
from own_module import SmallViT

import vitq

RECIPE = Path(__file__).with_name("own_recipe.yaml")
TINY = {"reconstruct.steps": 10, "reconstruct.batch": 8, "reconstruct.held_out": 8}  # as --set in the shell


def main() -> None:
    torch.manual_seed(0)
    module, images_NCHW = SmallViT().eval(), torch.randn(32, 3, 32, 32)
    for recipe in ("mgrq", RECIPE):
        model = vitq.quantize(module, images_NCHW, recipe=recipe, bits="w4a4", overrides=TINY, progress=False)
        head = next(site for name, site in model.weights.items() if name == "head/weight")
        print(f"{model.config.recipe['name']:5} head {head.format}, mean error {model.metrics['mean_segment_error']:.4f}")


if __name__ == "__main__":
    main()

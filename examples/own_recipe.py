"""Quantize with a recipe of your own, and look at what it did.

    python examples/own_recipe.py

``RECIPE`` is a file; a name, such as "mgrq", would be a recipe that comes with vitq.
"""

from pathlib import Path

import torch
from own_module import SmallViT

import vitq

RECIPE = Path(__file__).with_name("own_recipe.yaml")
TINY = {"reconstruct.steps": 5, "reconstruct.batch": 4, "reconstruct.evaluation.held_out": 4}  # as --set in the shell


def main() -> None:
    torch.manual_seed(0)
    module, images_NCHW = SmallViT(dim=24).eval(), torch.randn(8, 3, 32, 32)

    model = vitq.quantize(module, images_NCHW, recipe=RECIPE, bits="w4a4", overrides=TINY, progress=False)

    for site in ("blocks.0.qkv/weight", "head/weight"):
        print(f"{site:20} {model.weights[site].format}")
    print(f"mean error {model.metrics.mean_segment_error:.4f}")
    reconstruct = model.config.recipe["steps"][-1]["reconstruct"]  # with every default written out
    print(f"{reconstruct['steps']} steps on each of {reconstruct['schedule']}, learning {reconstruct['learn']}")


if __name__ == "__main__":
    main()

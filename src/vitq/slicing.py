"""The public verb ``granularity``: where a model's outliers are, and which slicing suits it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.arguments import checked
from vitq.bits import Bits
from vitq.devices import choose_device
from vitq.errors import RecipeError
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.recipes import load_recipe
from vitq.reconstruct import Choice, Reconstruct
from vitq.run.events import Events
from vitq.run.inputs import capture_checked, draw_images, load_source
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run


@checked()
@in_own_modes
def granularity(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    recipe: str | Path = "oas",
    bits: str | Bits = "w3a3",
    budget: str = "quick",
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int = 1000,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Choice:
    """Measure a model's outliers and try every slicing that ``recipe`` chooses among, without the full run.

    Arguments as in ``vitq.quantize``. Raises RecipeError where the recipe chooses no slicing.
    """
    wanted = bits if isinstance(bits, Bits) else Bits.parse(bits)
    plan = load_recipe(recipe, budget=budget, overrides=overrides)
    last = next((i for i, step in enumerate(plan.steps) if isinstance(step, Reconstruct) and step.choose), None)
    if last is None:
        raise RecipeError(f"recipe '{plan.name}' chooses no slicing; take one with reconstruct.choose, such as oas")
    place = choose_device(device)
    torch.manual_seed(seed)
    with Events(console=progress) as events:
        loaded = load_source(model, weights, num_classes, preprocessing)
        loaded, x_NCHW = draw_images(loaded, images, preprocessing is None, limit, 1, seed, events)
        teacher = capture_checked(loaded, x_NCHW, place)
        run = Run(teacher, teacher.clone(), x_NCHW, wanted, seed, place, events, recipe=plan.name)
        apply_steps(run, plan.steps[:last])
        step = plan.steps[last]
        assert isinstance(step, Reconstruct)
        return step.choice(run)

"""Public verbs that choose before a model is made: its slicing, and the bits of its sites."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.allocation import Allocation
from vitq.allocation.files import is_allocation
from vitq.allocation.result import candidates_of, limits_of, require_choices
from vitq.allocation.run import Request, allocate_anew, allocate_from
from vitq.arguments import checked, leave_out
from vitq.bits import AverageBits, Bits
from vitq.devices import choose_device
from vitq.errors import ArgumentError, RecipeError
from vitq.export.targets import Cpu, profile_for
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.recipes import load_recipe
from vitq.recipes.for_target import recipe_for
from vitq.reconstruct import Choice, Reconstruct
from vitq.run.events import Events
from vitq.run.inputs import load_with_images, start_run
from vitq.run.pipeline import apply_steps


@checked()
@in_own_modes
def granularity(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    recipe: str | Path = "oas",
    bits: str | Bits = "w3a3",
    budget: str = "quick",
    task: str | None = None,
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
        loaded, x_NCHW = load_with_images(
            model,
            images,
            weights,
            num_classes,
            preprocessing,
            limit=limit,
            seed=seed,
            events=events,
            device=place,
            task=task,
        )
        run = start_run(loaded, x_NCHW, wanted, plan.name, seed=seed, device=place, events=events)
        apply_steps(run, plan.steps[:last])
        step = plan.steps[last]
        assert isinstance(step, Reconstruct)
        return step.choice(run)


@checked()
@in_own_modes
def allocate(
    model: str | nn.Module | LoadedModel,
    images: Any = None,
    *,
    average_bits: float | str | AverageBits | None = None,
    size_mb: float | None = None,
    bit_ops: float | None = None,
    within: float | None = None,
    solver: str = "program",
    by: str = "output",
    pairs: bool = False,
    keep: Mapping[str, int] | None = None,
    candidates: Sequence[int] | None = None,
    trials: int = 64,
    recipe: str | Path = "repq",
    bits: str | Bits | None = None,
    budget: str = "quick",
    scope: str | None = None,
    target: str | None = None,
    cpu: str = "any",
    task: str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int = 32,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Allocation:
    """Choose the bits of every site so that a budget is met and the model's output moves least.

    Budgets, at least one:

    * ``average_bits``: 4.5, or "w3a4.5": the largest average of weights, by parameters, and of activations, by
      elements.
    * ``size_mb``: megabytes of the stored tensors.
    * ``bit_ops``: bit operations per image.
    * ``within``: percent of the score that may be lost, as expected from the trials, with the fewest bit operations.

    How bits are chosen:

    * ``solver``: "program", "greedy", "evolutionary" or "quantune"; the last two measure up to ``trials`` whole models.
    * ``by``: the distance that counts, "output", "feature" or "proxy" (quickest); ``pairs`` adds the joint effect of
      sites of a block.
    * ``candidates``: 2, 3, 4, 5, 6 and 8 by default; 32 leaves a site in floating point. With ``within``, 32 joins
      them, and without another budget they are 8 and 32. ``keep`` gives sites fixed bits of them.
    * ``limit``: images of the trials, with the calibration of ``recipe``, whose rewrites are for ``bits``.
    * ``target``: sites get bits that its runtime carries, and the operands of a product are in floating point together.
    * ``out``: the folder of the trials, which go on there after a kill. Such a folder in place of ``model`` answers
      another budget without images.

    Other arguments as in ``vitq.quantize``. Raises AllocationError for a budget that cannot be met, with the nearest
    that can.
    """
    limits = limits_of(average_bits, size_mb, bit_ops, within)
    require_choices(solver, by, within)
    widths = candidates_of(candidates, limits, within)
    base = "w4a4" if min(widths) < 8 else "w8a8"
    profile = profile_for(target, cpu)
    request = Request(limits, solver, by, pairs, keep or {}, widths, trials, within, profile)
    with Events(console=progress) as events:
        if isinstance(model, str) and is_allocation(Path(model)):
            if images is not None:
                raise ArgumentError(f"'{model}' holds the trials of an allocation: leave the images out")
            known: dict[str, Any] = {"candidates": candidates, "target": target, "bits": bits, "scope": scope}
            known |= {"task": task, "weights": weights, "num_classes": num_classes, "preprocessing": preprocessing}
            known |= {"cpu": None if cpu == Cpu.ANY else cpu}
            leave_out(f"'{model}' holds the trials of an allocation, which", {**known, "overrides": overrides or None})
            return allocate_from(Path(model), request, seed, events)
        if images is None:
            raise ArgumentError("images are missing: trials run on some, unless model is a folder of an allocation")
        wanted = bits if isinstance(bits, Bits) else Bits.parse(bits or base)
        plan = recipe_for(recipe, budget, scope, target, overrides or {})
        place = choose_device(device)
        torch.manual_seed(seed)
        loaded, x_NCHW = load_with_images(
            model,
            images,
            weights,
            num_classes,
            preprocessing,
            limit=limit,
            seed=seed,
            events=events,
            device=place,
            task=task,
        )
        folder = None if out is None else Path(out)
        return allocate_anew(loaded, x_NCHW, plan, wanted, request, folder, overwrite, seed, place, events)

"""The public verbs, under the words of the command line."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from vitq.allocation import Allocation
from vitq.allocation.files import is_allocation
from vitq.allocation.result import candidates_of, limits_of, require_choices
from vitq.allocation.run import Request, allocate_anew, allocate_from
from vitq.arguments import BITS_OR_TABLE, MODEL, checked, leave_out
from vitq.artifact.artifact import seal as seal_files
from vitq.artifact.sealing import is_artifact
from vitq.bits import AverageBits, Bits, BitTable
from vitq.devices import choose_device
from vitq.diagnosis import Diagnosis, diagnose_loaded
from vitq.errors import ArgumentError, ArtifactError, RecipeError
from vitq.evaluation import Metrics, measure_loaded
from vitq.inside import quantize_inside
from vitq.model import QuantizedModel, load
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.recipes import load_recipe
from vitq.recipes.auto import AUTO
from vitq.recipes.for_target import recipe_for
from vitq.reconstruct import Choice, Reconstruct
from vitq.report.diagnosis import check_page, write_diagnosis
from vitq.run.events import Events
from vitq.run.inputs import load_source, load_with_images, start_run
from vitq.run.pipeline import apply_steps
from vitq.verbs.bench import bench_runs
from vitq.verbs.evaluate import evaluate_beside
from vitq.verbs.quantize import quantize_whole
from vitq.verbs.report import report_runs

if TYPE_CHECKING:
    from vitq.bench.bench import Measured
    from vitq.suites.compare import Comparison

__all__ = [
    "QuantizedModel",
    "allocate",
    "bench",
    "compare",
    "diagnose",
    "evaluate",
    "granularity",
    "load",
    "quantize",
    "report",
    "seal",
]


@checked(bits=BITS_OR_TABLE)
@in_own_modes
def quantize(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    recipe: str | Path = AUTO,
    bits: str | Path | Bits | BitTable = "w8a8",
    fit_mb: float | None = None,
    within: float | None = None,
    budget: str = "quick",
    scope: str | None = None,
    target: str | None = None,
    task: str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int = 1000,
    views: int = 1,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    validation: Any = None,
    inside: str | None = None,
    progress: bool = True,
) -> QuantizedModel:
    """Quantize a pretrained vision transformer with a few hundred unlabeled images.

    ``model`` is a timm name, a Hugging Face id or folder, or a module x_BCHW -> logits_BK, which is not changed; it may
    return other tensors too, or several, which are kept by name.
    ``images`` is a folder, an ``.npz``, a preprocessed tensor x_NCHW or an iterable; ``validation`` likewise, with
    labels. Without images "synthetic" makes some from the model alone (PSAQ-ViT), and "noise" is the last resort.
    ``bits`` reads "w4a4", or is a bit table or its .yaml file (``vitq.allocate``); ``recipe`` "auto" is "repq",
    calibration, at 6 bits and more, and "mgrq", training, below. ``scope`` is "paper", "deploy" or "full", by default
    the recipe's ("paper" where it has none); ``target`` calibrates for a target of ``QuantizedModel.export``, whose
    default scope is "deploy". A run at 6 bits and more that leaves recipe, scope and target open is for "onnxruntime".
    ``task`` says what the outputs mean, where that is not certain (docs/tasks.md). ``overrides`` changes recipe options
    ({"reconstruct.steps": 500}) and comes last. With ``out`` the run is checkpointed there and its artifact saved;
    ``resume`` goes on after a kill, ``overwrite`` replaces what is there. With ``inside``, the path of a part of a
    larger model, that part is quantized on what it receives, and a module to put in its place is returned
    (docs/tasks.md).
    ``fit_mb`` and ``within`` ask for a result instead of ``bits``: at most so many megabytes of stored tensors, at most
    so many percent of the score expected to be lost; which site gets how many bits is then chosen as by
    ``vitq.allocate`` (docs/allocate.md).
    Raises a VitqError that names what is wrong with model, images, recipe or folder.
    """
    run: partial[QuantizedModel] = partial(
        quantize_whole,
        recipe=recipe,
        bits=bits,
        fit_mb=fit_mb,
        within=within,
        budget=budget,
        scope=scope,
        target=target,
        views=views,
        overrides=overrides or {},
        seed=seed,
        device=device,
        out=out,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    if inside is not None:
        if weights is not None or num_classes is not None or validation is not None:
            raise ArgumentError("weights, num_classes and validation are of whole models; leave them out with inside")
        return cast(QuantizedModel, quantize_inside(model, images, inside, run, preprocessing, limit, task))
    return run(
        model,
        images,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing,
        limit=limit,
        task=task,
        validation=validation,
    )


@checked(target=MODEL)
@in_own_modes
def evaluate(
    target: str | Path | nn.Module | LoadedModel,
    images: Any,
    *,
    task: str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    integer: bool = False,
    baseline: bool | str | Path | nn.Module | LoadedModel = False,
    workers: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Metrics:
    """Return what an artifact folder or a floating-point model scores on labelled images, by its task.

    ``task`` names another task than the one that was found (docs/tasks.md). ``integer`` runs an artifact in integer
    arithmetic where it can, instead of simulating it. ``baseline`` measures the model that an artifact was made of too,
    loaded by its name (with ``weights``) or given, and returns ``vitq.beside.Beside``. ``workers`` processes decode
    files, threads where it is 0; None takes processes for 2,000 images and more. Raises DataError for images or labels
    that cannot be used, ArtifactError where ``integer`` or ``baseline`` is asked of what is no artifact.
    """
    place = choose_device(device)
    if isinstance(target, str | Path) and is_artifact(Path(target)):
        given = {"num_classes": num_classes, "preprocessing": preprocessing}
        leave_out(f"'{target}' is an artifact, which", given if baseline else {"weights": weights, **given})
        model = load(target, place)
        options: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "integer": integer, "task": task}
        options |= {"workers": workers, "progress": progress}
        if baseline:
            return evaluate_beside(model, baseline, images, weights=weights, **options)
        return model.evaluate(images, **options)
    if baseline:
        raise ArtifactError(f"{target} is no artifact, so it has no baseline; leave it out")
    if integer:
        raise ArtifactError(f"{target} is no artifact, so it has no integer codes to run; quantize it first")
    loaded = load_source(str(target) if isinstance(target, Path) else target, weights, num_classes, preprocessing, task)
    with Events(console=progress) as events:
        return measure_loaded(
            loaded,
            images,
            place,
            events,
            take_size=preprocessing is None,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
        )


@checked()
@in_own_modes
def seal(path: str | Path) -> tuple[str, ...]:
    """Seal an artifact anew after an edit of its files, and return the names of those that were not sealed as they are.

    Everything but the hashes is checked as ``vitq.load`` does; ArtifactError where the files do not fit together.
    """
    return seal_files(Path(path))


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

    Budgets, at least one: ``average_bits`` (4.5, or "w3a4.5"; weights by parameters, activations by elements, each at
    most that), ``size_mb`` of the stored tensors, ``bit_ops`` per image; ``within`` percent of the score that may be
    lost, by what is expected of the trials, with the fewest bit operations. ``solver``: "program", "greedy",
    "evolutionary" or "quantune"; the last two measure up to ``trials`` whole models. ``by``: which distance counts,
    "output", "feature" or "proxy" (quickest); ``pairs`` adds what sites of a block move together; ``keep`` gives sites
    fixed bits of ``candidates``, which are 2, 3, 4, 5, 6 and 8 by default, where 32 leaves a site in floating point;
    with ``within``, 32 joins them, and without another budget they are 8 and 32. Trials run on ``limit`` images with
    the calibration of ``recipe``, whose rewrites are for ``bits``. With a ``target``, sites get what its runtime
    carries, and the operands of a product are in floating point together. With ``out`` all trials are kept there and
    gone on with after a kill; such a folder in place of ``model`` answers another budget without images. Other
    arguments as in ``vitq.quantize``.
    Raises AllocationError for a budget that cannot be met, with the nearest that can.
    """
    limits = limits_of(average_bits, size_mb, bit_ops, within)
    require_choices(solver, by, within)
    widths = candidates_of(candidates, limits, within)
    base = "w4a4" if min(widths) < 8 else "w8a8"
    request = Request(limits, solver, by, pairs, keep or {}, widths, trials, within, target)
    with Events(console=progress) as events:
        if isinstance(model, str) and is_allocation(Path(model)):
            if images is not None:
                raise ArgumentError(f"'{model}' holds the trials of an allocation: leave the images out")
            known: dict[str, Any] = {"candidates": candidates, "target": target, "bits": bits, "scope": scope}
            known |= {"task": task, "weights": weights, "num_classes": num_classes, "preprocessing": preprocessing}
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


@checked()
@in_own_modes
def bench(
    runs: Any,
    images: Any,
    *,
    validation: Any = None,
    floating: str | nn.Module | LoadedModel | None = None,
    weights: str | Path | None = None,
    batch: int | Sequence[int] = (1, 16),
    threads: int = 1,
    rounds: int = 20,
    limit: int = 64,
    cpu: str = "any",
    baselines: bool = True,
    task: str | None = None,
    progress: bool = True,
) -> list["Measured"]:
    """Measure artifacts of one model as exported files, beside floating point and the runtimes' own int8.

    ``runs`` are folders of artifacts or quantized models, one, several, or by name. ``limit`` of ``images`` are run,
    and are the calibration data of the ``baselines``, the runtimes' own; labelled ``validation`` adds what the
    task scores (``task`` as in ``evaluate``).
    ``floating`` (with ``weights``) is the model that the first one was made of, as float32; without it that is the
    first one's graph, not quantized. ``batch`` are batch sizes; medians are of ``rounds`` interleaved repetitions;
    ``cpu`` as in ``QuantizedModel.export``. Raises ArtifactError for what is no artifact, ExportError for what cannot
    be exported, another ``floating``, or a run that is named twice.
    """
    return bench_runs(
        runs,
        images,
        validation=validation,
        floating=floating,
        weights=weights,
        batches=(batch,) if isinstance(batch, int) else tuple(batch),
        threads=threads,
        rounds=rounds,
        limit=limit,
        cpu=cpu,
        baselines=baselines,
        task=task,
        progress=progress,
    )


@checked()
@in_own_modes
def compare(
    suite: str | Path,
    *,
    data: str | Path | None = None,
    store: str | Path = "runs/store",
    out: str | Path | None = None,
    only: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    retries: int = 2,
    measure: bool = True,
    overwrite: bool = False,
    renew_golden: bool = False,
    progress: bool = True,
) -> "Comparison":
    """Measure a suite of models, recipes, bits, budgets and seeds, and write its leaderboard (docs/compare.md).

    ``suite`` is a file; ``data`` stands for the folder that it names. What the ``store`` has is not measured again,
    unless to ``overwrite`` it; without ``measure`` nothing is. ``only`` takes cells whose name matches a glob or holds
    words. ``jobs`` cells are measured at a time, each by a process; 1 is this one. ``ray`` is the address of a cluster,
    or "local". A cell whose worker dies is begun again up to ``retries`` times. ``renew_golden`` writes the suite's
    golden scores. Raises SuiteError for what is wrong with the suite; cells that fail are named in the result.
    """
    from vitq.suites.compare import compare_suite

    with Events(console=progress) as events:
        return compare_suite(
            Path(suite),
            data=None if data is None else Path(data),
            store=Path(store),
            out=None if out is None else Path(out),
            only=only,
            jobs=jobs,
            ray=ray,
            threads=threads,
            device=device,
            retries=retries,
            measure=measure,
            overwrite=overwrite,
            renew_golden=renew_golden,
            events=events,
        )


@checked()
@in_own_modes
def report(runs: Any, *, out: str | Path | None = None, within: float = 1.0) -> Path:
    """Write the report of a run anew from its folder, or one page that compares several, and return its path.

    ``runs`` as in ``vitq.bench``; a folder tells more than a loaded model. ``out`` is the page: by default
    ``report.html`` in the run's folder, ``comparison.html`` for several. ``within``: points of the score that may be
    lost. Raises ArtifactError for what is no artifact, for damaged files, and where another's file is at ``out``.
    """
    return report_runs(runs, out, within)


@checked()
@in_own_modes
def diagnose(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    bits: str | Bits = "w4a4",
    scope: str = "paper",
    task: str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int = 64,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Look at a model before it is quantized: does it get its images right, which sites will be hard, and why.

    Confidence, entropy and agreement between crops say whether the preprocessing fits; then everything is quantized to
    ``bits`` by recipe repq, and each site, and each role, is left out in turn. ``limit`` images are looked at, labels
    are used where every one has one; sites are left out on some of them. With ``out``
    its page is written there. Other arguments as in ``vitq.quantize``. Raises a VitqError that names what is wrong with
    model, images or page.
    """
    wanted = bits if isinstance(bits, Bits) else Bits.parse(bits)
    if out is not None:
        check_page(Path(out))
    place = choose_device(device)
    torch.manual_seed(seed)
    with Events(console=progress) as events:
        loaded = load_source(model, weights, num_classes, preprocessing, task)
        found = diagnose_loaded(
            loaded,
            images,
            wanted,
            scope,
            take_size=preprocessing is None,
            limit=limit,
            seed=seed,
            device=place,
            events=events,
        )
    if out is not None:
        write_diagnosis(Path(out), found)
    return found

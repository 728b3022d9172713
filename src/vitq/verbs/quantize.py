"""What ``vitq.quantize`` does with its arguments: a whole model from capture to artifact."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import nn

from vitq.allocation.tables import Asked
from vitq.arguments import BITS_OR_TABLE
from vitq.artifact.artifact import Artifact
from vitq.artifact.files import reason
from vitq.artifact.metrics import RunMetrics
from vitq.artifact.origin import describe_run
from vitq.bits import MIXED, Bits, BitTable
from vitq.calibrate import scope_rows
from vitq.calibrate.outliers import still_true
from vitq.devices import choose_device, peak_memory
from vitq.errors import ArgumentError, VitqError
from vitq.evaluation import OF_OUTPUTS, Evaluator, Forward, Metrics
from vitq.evidence import Evidence
from vitq.evidence.collect import Witness
from vitq.export.targets import NARROWER, Cpu, profile_for
from vitq.model import QuantizedModel
from vitq.models import LoadedModel, Preprocessing
from vitq.recipes import ResolvedRecipe
from vitq.recipes.auto import AUTO, CALIBRATION, choose
from vitq.recipes.for_target import recipe_for, scopes_of
from vitq.report import scope_table
from vitq.report.fewer_bits import fewer_bits
from vitq.run.events import Events
from vitq.run.inputs import load_with_images, start_run
from vitq.run.pipeline import preview, run_steps
from vitq.run.run import Run
from vitq.run.workspace import Workspace, open_workspace
from vitq.verbs.finish import finish, load_finished
from vitq.verbs.fit import Goal
from vitq.verbs.segment_errors import segment_errors

NO_SCOPE = "none"
"""Scope of a run whose recipe inserts nothing."""


def quantize_whole(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    recipe: str | Path,
    bits: str | Path | Bits | BitTable,
    budget: str,
    scope: str | None,
    target: str | None,
    views: int,
    overrides: Mapping[str, Any],
    seed: int,
    device: str,
    out: str | Path | None,
    resume: bool,
    overwrite: bool,
    progress: bool,
    limit: int,
    cpu: str = Cpu.ANY,
    fit_mb: float | None = None,
    within: float | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    task: str | None = None,
    validation: Any = None,
) -> QuantizedModel:
    """Choose what is left open, load model and images, and quantize; arguments and errors as of ``vitq.quantize``."""
    began = time.monotonic()
    goal = Goal.of(fit_mb, within, bits)
    asked = Asked.of(BITS_OR_TABLE.read(bits))
    if (resume or overwrite) and out is None:
        raise ArgumentError("resume and overwrite are about a folder of a run; name it with out")
    given = target
    if goal is not None:
        profile_for(given, cpu)  # no target is chosen for it, so what is wrong is told before any work
    chosen, target, taken, plan = _chosen(recipe, asked, budget, scope, given, cpu, overrides)
    place = choose_device(device)
    torch.manual_seed(seed)
    with open_workspace(out, resume, overwrite) as space, Events(space.log, console=progress) as events:
        if goal is None and taken.bits != asked.bits:
            events.warn("bits-for-target", f"{asked.bits} is {taken.bits} for {target}: {NARROWER}")
        loaded, x_NCHW = load_with_images(
            model,
            images,
            weights,
            num_classes,
            preprocessing,
            limit=limit,
            views=views,
            seed=seed,
            events=events,
            device=place,
            task=task,
        )
        if goal is not None:
            table = goal.table(
                loaded,
                x_NCHW,
                budget=budget,
                scope=scope,
                target=given,
                cpu=cpu,
                seed=seed,
                device=place,
                folder=space.folder,
                overwrite=overwrite,
                events=events,
            )
            chosen, target, taken, plan = _chosen(recipe, Asked.of(table), budget, scope, given, cpu, overrides)
        result = _quantize_in(
            space, loaded, x_NCHW, plan, taken, validation, seed=seed, device=place, events=events, began=began
        )
        if recipe == AUTO and chosen == CALIBRATION and goal is None:
            events.show(escape(fewer_bits(result.artifact)))
        return result


def _chosen(
    recipe: str | Path,
    asked: Asked,
    budget: str,
    scope: str | None,
    target: str | None,
    cpu: str,
    overrides: Mapping[str, Any],
) -> tuple[str | Path, str | None, Asked, ResolvedRecipe]:
    """Return recipe and target with what was left open, the bits as the target takes them, and the resolved recipe."""
    chosen, target = choose(recipe, asked.table or asked.bits, scope, target, overrides)
    profile = profile_for(target, cpu)
    taken = asked if profile is None else asked.narrowed(profile)
    return chosen, target, taken, recipe_for(chosen, budget, scope, target, {**taken.overrides, **overrides})


def _quantize_in(
    space: Workspace,
    loaded: LoadedModel,
    x_NCHW: torch.Tensor,
    plan: ResolvedRecipe,
    asked: Asked,
    validation: Any,
    *,
    seed: int,
    device: torch.device,
    events: Events,
    began: float,
) -> QuantizedModel:
    """Run the recipe, measure and save the model in the folder of ``space``, or load what a finished run left there.

    ``began``: when the verb was called, by ``time.monotonic``. Errors as of ``vitq.quantize``.
    """
    scopes = scopes_of(plan)
    taken = "+".join(scopes) or NO_SCOPE
    about = describe_run(loaded, x_NCHW, plan.to_dict(), asked.bits, taken, seed)
    averages = asked.table is None and any(step.mixes for step in plan.steps)
    about = about.model_copy(update={"bits": f"{MIXED} {asked.bits}" if averages else asked.label})
    if space.folder is not None and space.finished:
        return load_finished(space.folder, about, device)
    checkpoints = space.checkpoints(about.model_dump(mode="json"))
    run = start_run(
        loaded, x_NCHW, asked.bits, plan.name, seed=seed, device=device, events=events, checkpoints=checkpoints
    )
    asked.require_sites(run.teacher, scopes)
    formats = {name: placed.format for name, placed in preview(run, plan.steps).items()}
    if not averages:
        about = about.model_copy(update={"bits": asked.label_on(run.teacher, formats)})
    title = f"What is quantized ({about.bits}), scope {taken}"
    events.show(scope_table(scope_rows(run.student, planned=formats), title))
    evaluator = Evaluator(loaded, validation, x_NCHW, device, events)
    witness = None if space.folder is None else Witness(run)
    floating = evaluator(run.teacher if witness is None else witness.teacher(), "floating point")
    frozen = run_steps(run, plan.steps) if witness is None else run_steps(run, plan.steps, witness.before_freezing)
    metrics = _metrics(run, floating, evaluator, began, run.student if witness is None else witness.student())
    result = QuantizedModel(Artifact(run.student, frozen, about, metrics))
    if space.folder is not None and witness is not None:
        result.evidence = _evidence(witness, evaluator)
        finish(result, space.folder, events, checkpoints.clear)
    numbers = result.metrics.to_dict()
    events.log("finished", **{k: v for k, v in numbers.items() if isinstance(v, float | int)})
    return result


def _evidence(witness: Witness, evaluator: Evaluator) -> Evidence | None:
    """Return what the report shows; what goes wrong there is a warning, for the model is whole."""
    events, reference = evaluator.events, evaluator.reference
    try:
        with events.task("look at sites and images"):
            return witness.evidence(
                evaluator.loaded.preprocessing,
                reference.images if reference is not None else (),
                reference.labels_N if reference is not None else None,
                evaluator.source.class_names if evaluator.source is not None else None,
                evaluator.same_images,
            )
    except Exception as error:  # whatever it is, it must not take the model away
        events.warn("report", f"{error if isinstance(error, VitqError) else reason(error)}; it shows less")
        return None


def _metrics(run: Run, floating: Metrics, evaluator: Evaluator, began: float, student: Forward) -> RunMetrics:
    errors = segment_errors(run)
    score = evaluator(student, "quantized")
    return RunMetrics(
        **{f"fp_{key}": value for key, value in asdict(floating).items() if key not in OF_OUTPUTS},
        **asdict(score),
        outliers=still_true(run.student, run.outliers) or None,
        segment_errors=errors,
        mean_segment_error=sum(errors.values()) / len(errors),
        fp_size_bytes=sum(t.nbytes for t in run.teacher.module.state_dict().values()),
        warnings=tuple((warning.name, warning.message) for warning in run.events.warnings),
        seconds=time.monotonic() - began,
        peak_memory_bytes=peak_memory(run.device),
    )

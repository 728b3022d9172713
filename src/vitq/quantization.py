"""What ``vitq.quantize`` does once model, images, recipe and folder are known: the run, from capture to artifact."""

import time
from dataclasses import asdict
from typing import Any

import torch

from vitq.allocation.tables import Asked
from vitq.artifact.artifact import Artifact
from vitq.artifact.metrics import RunMetrics
from vitq.artifact.origin import describe_run
from vitq.calibrate import scope_rows
from vitq.devices import peak_memory
from vitq.evaluation import OF_OUTPUTS, Evaluator, Metrics, segment_errors
from vitq.model import QuantizedModel, finish, load_finished
from vitq.models import LoadedModel
from vitq.recipes import ResolvedRecipe
from vitq.recipes.for_target import scopes_of
from vitq.report import scope_table
from vitq.run.events import Events
from vitq.run.inputs import start_run
from vitq.run.pipeline import preview, run_steps
from vitq.run.run import Run
from vitq.run.workspace import Workspace

NO_SCOPE = "none"
"""Scope of a run whose recipe inserts nothing."""


def quantize_in(
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
    about = about.model_copy(update={"bits": asked.label})
    if space.folder is not None and space.finished:
        return load_finished(space.folder, about, device)
    checkpoints = space.checkpoints(about.model_dump(mode="json"))
    run = start_run(
        loaded, x_NCHW, asked.bits, plan.name, seed=seed, device=device, events=events, checkpoints=checkpoints
    )
    asked.require_sites(run.teacher, scopes)
    formats = {name: placed.format for name, placed in preview(run, plan.steps).items()}
    about = about.model_copy(update={"bits": asked.label_on(run.teacher, formats)})
    title = f"What is quantized ({about.bits}), scope {taken}"
    events.show(scope_table(scope_rows(run.student, planned=formats), title))
    evaluator = Evaluator(loaded, validation, x_NCHW, device, events)
    floating = evaluator(run.teacher, "floating point")
    frozen = run_steps(run, plan.steps)
    metrics = _metrics(run, floating, evaluator, began)
    result = QuantizedModel(Artifact(run.student, frozen, about, metrics))
    if space.folder is not None:
        finish(result, space.folder, checkpoints, events)
    numbers = result.metrics.to_dict()
    events.log("finished", **{k: v for k, v in numbers.items() if isinstance(v, float | int)})
    return result


def _metrics(run: Run, floating: Metrics, evaluator: Evaluator, began: float) -> RunMetrics:
    errors = segment_errors(run)
    score = evaluator(run.student, "quantized")
    return RunMetrics(
        **{f"fp_{key}": value for key, value in asdict(floating).items() if key not in OF_OUTPUTS},
        **asdict(score),
        segment_errors=errors,
        mean_segment_error=sum(errors.values()) / len(errors),
        fp_size_bytes=sum(t.nbytes for t in run.teacher.module.state_dict().values()),
        warnings=tuple((warning.name, warning.message) for warning in run.events.warnings),
        seconds=time.monotonic() - began,
        peak_memory_bytes=peak_memory(run.device),
    )

"""The public verbs: quantize, load, evaluate."""

import hashlib
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.artifact import to_json_bytes, write_files
from vitq.bits import Bits
from vitq.calibrate import Insert
from vitq.config import ArtifactConfig
from vitq.data import load_labelled, open_images
from vitq.devices import choose_device, peak_memory
from vitq.errors import ArtifactError, ExportError
from vitq.events import Events
from vitq.inputs import capture_checked, draw_images, load_source
from vitq.judge import Judge
from vitq.measure import Metrics, measure
from vitq.models import LoadedModel, Preprocessing
from vitq.pipeline import run_steps, segment_errors, show_scope
from vitq.quantized import COSTS, QuantizedModel, as_mapping, load
from vitq.recipes import ResolvedRecipe, load_recipe
from vitq.report.html import write_report
from vitq.run import Run
from vitq.store import Store, require_same
from vitq.targets import profile_of


def quantize(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    recipe: str | Path = "mgrq",
    bits: str | Bits = "w4a4",
    budget: str = "quick",
    scope: str | None = None,
    target: str | None = None,
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
    progress: bool = True,
) -> QuantizedModel:
    """Quantize a pretrained vision transformer with a few hundred unlabeled images.

    ``model`` is a timm name, a Hugging Face id or folder, or a module x_BCHW -> logits_BK, which is not changed.
    ``images`` is a folder, an ``.npz``, a preprocessed tensor x_NCHW or an iterable; ``validation`` likewise, with
    labels. ``bits`` reads "w4a4"; ``scope`` is "paper" (the default) or "deploy"; ``target`` calibrates for a target of
    ``QuantizedModel.export``, whose default scope is "deploy"; ``overrides`` changes recipe options
    ({"reconstruct.steps": 500}) and comes last. With ``out`` the run is checkpointed there, its artifact saved, and
    ``resume`` continues it after a kill; ``overwrite`` replaces what ``out`` holds.
    Raises a VitqError that names what is wrong with model, images, recipe or folder.
    """
    began = time.monotonic()
    wanted = bits if isinstance(bits, Bits) else Bits.parse(bits)
    chosen: dict[str, Any] = {"insert.scope": scope or "paper"}
    if target is not None:
        profile = profile_of(target)
        if scope not in (None, *profile.scopes):
            known = " or ".join(profile.scopes)
            raise ExportError(f"target '{target}' is of scope {known}, not {scope}; leave one of them out")
        chosen |= {**profile.overrides, "insert.scope": scope or profile.scopes[0]}
    plan = load_recipe(recipe, budget=budget, overrides={**chosen, **(overrides or {})})
    taken = next(step.scope for step in plan.steps if isinstance(step, Insert))
    folder = None if out is None else Path(out)
    checkpoints = None if folder is None else folder / "checkpoints"
    ended = checkpoints is None or not Store.unfinished(checkpoints)
    finished = folder is not None and (folder / "config.json").exists() and ended and not overwrite
    if finished and not resume:
        raise ArtifactError(f"{folder} already holds a finished artifact; choose another --out, or --overwrite it")
    place = choose_device(device)
    torch.manual_seed(seed)
    with Events(None if folder is None else folder / "events.jsonl", console=progress) as events:
        loaded = load_source(model, weights, num_classes, preprocessing)
        loaded, x_NCHW = draw_images(loaded, images, preprocessing is None, limit, views, seed, events)
        about = _about(loaded, x_NCHW, plan, wanted, taken, seed)
        if folder is not None and finished:
            return _finished(folder, about, place)
        store = Store(checkpoints, about.model_dump(mode="json"), resume, overwrite)
        teacher = capture_checked(loaded, x_NCHW, place)
        run = Run(teacher, teacher.clone(), x_NCHW, wanted, seed, place, events, store)
        show_scope(run, plan.steps)
        judge = Judge(loaded, validation, x_NCHW, place, events)
        floating = judge(teacher, "floating point")
        frozen = run_steps(run, plan.steps)
        errors = segment_errors(run)
        score = judge(run.student, "quantized")
        metrics: dict[str, Any] = {
            **as_mapping(floating, "fp_"),
            **as_mapping(score),
            "segment_errors": errors,
            "mean_segment_error": sum(errors.values()) / len(errors),
            "fp_size_bytes": sum(t.nbytes for t in teacher.module.state_dict().values()),
            "warnings": [tuple(w) for w in events.warnings],
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": peak_memory(place),
        }
        result = QuantizedModel(run.student, frozen, about, metrics)
        if folder is not None:
            result.save(folder)
            write_files(folder, {"run.json": to_json_bytes({key: metrics[key] for key in COSTS})})
            shown = {key: value for key, value in result.metrics.items() if key not in COSTS}
            write_report(folder / "report.html", QuantizedModel(run.student, frozen, result.config, shown))
            store.clear()
        events.log("finished", **{k: v for k, v in metrics.items() if isinstance(v, float | int)})
    return result


def evaluate(
    target: str | Path | nn.Module,
    images: Any,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    integer: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Metrics:
    """Return top-1 and top-5 in percent of an artifact folder or of a floating-point model on labelled images.

    ``integer`` runs an artifact's linears in integer arithmetic instead of simulating it.
    """
    place = choose_device(device)
    if isinstance(target, str | Path) and (Path(target) / "graph.json").exists():
        model = load(target, place)
        return model.evaluate(images, limit=limit, batch_size=batch_size, integer=integer, progress=progress)
    if integer:
        raise ArtifactError(f"{target} is no artifact, so it has no integer codes to run; quantize it first")
    loaded = load_source(target if isinstance(target, nn.Module) else str(target), weights, num_classes, preprocessing)
    source = open_images(images)
    if preprocessing is None and source.shape and source.shape[0] != loaded.preprocessing.input_size[0]:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.of_tensors(source.shape))
    with Events(console=progress) as events:
        batches = load_labelled(
            source,
            loaded.preprocessing,
            limit,
            batch_size=batch_size,
            num_classes=loaded.num_classes,
            warn=events.warn,
        )
        with events.task("evaluate", len(source) if limit is None else min(limit, len(source))) as task:
            return measure(loaded.module.to(place), batches, place, progress=task.advance)[0]


def _finished(folder: Path, about: ArtifactConfig, device: torch.device) -> QuantizedModel:
    """Load the artifact that a run of the same inputs has left; ResumeError where it was made of others."""
    result = load(folder, device)
    own: dict[str, Any] = {"sites": {}, "hashes": {}}
    require_same(result.config.model_copy(update=own).model_dump(mode="json"), about.model_dump(mode="json"), folder)
    return result


def _about(
    loaded: LoadedModel, x_NCHW: torch.Tensor, plan: ResolvedRecipe, bits: Bits, scope: str, seed: int
) -> ArtifactConfig:
    return ArtifactConfig(
        source={**loaded.source, "name": loaded.name},
        preprocessing=loaded.preprocessing.to_dict(),
        bits=str(bits),
        scope=scope,
        recipe=plan.to_dict(),
        seed=seed,
        calibration={"images": len(x_NCHW), "sha256": hashlib.sha256(x_NCHW.numpy().tobytes()).hexdigest()},
        versions={"vitq": version("vitq"), "torch": torch.__version__, "python": platform.python_version()},
        sites={},
    )

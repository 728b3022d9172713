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

from vitq.arguments import MODEL, checked
from vitq.artifact.artifact import seal as seal_files
from vitq.artifact.schema import ArtifactConfig
from vitq.artifact.sealing import is_artifact
from vitq.bits import Bits
from vitq.calibrate import Insert
from vitq.data import load_labelled, open_images
from vitq.devices import choose_device, peak_memory
from vitq.errors import ArgumentError, ArtifactError, ExportError
from vitq.evaluation import Judge
from vitq.export.targets import NARROWER, bits_for, profile_of
from vitq.measure import Metrics, measure
from vitq.model import QuantizedModel, as_mapping, load
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.recipes import ResolvedRecipe, load_recipe
from vitq.run.checkpoints import require_same
from vitq.run.events import Events
from vitq.run.inputs import capture_checked, draw_images, load_source, settle_for
from vitq.run.pipeline import run_steps, segment_errors, show_scope
from vitq.run.run import Run
from vitq.run.workspace import open_workspace

__all__ = ["QuantizedModel", "evaluate", "load", "quantize", "seal"]

NO_SCOPE = "none"
"""Scope of a run whose recipe inserts nothing."""


@checked()
@in_own_modes
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
    labels. ``bits`` reads "w4a4"; ``scope`` is "paper" or "deploy", by default the recipe's ("paper" where it has
    none); ``target`` calibrates for a target of ``QuantizedModel.export``, whose default scope is "deploy";
    ``overrides`` changes recipe options
    ({"reconstruct.steps": 500}) and comes last. With ``out`` the run is checkpointed there, its artifact saved, and
    ``resume`` continues it after a kill; ``overwrite`` replaces what ``out`` holds.
    Raises a VitqError that names what is wrong with model, images, recipe or folder.
    """
    began = time.monotonic()
    wanted = asked = bits if isinstance(bits, Bits) else Bits.parse(bits)
    if (resume or overwrite) and out is None:
        raise ArgumentError("resume and overwrite are about a folder of a run; name it with out")
    plan = _planned(recipe, budget, scope, target, overrides or {})
    if target is not None:
        wanted = bits_for(asked, profile_of(target))
    scopes = dict.fromkeys(step.scope for step in plan.steps if isinstance(step, Insert))
    taken = "+".join(scopes) or NO_SCOPE
    place = choose_device(device)
    torch.manual_seed(seed)
    with open_workspace(out, resume, overwrite) as space, Events(space.log, console=progress) as events:
        if wanted != asked:
            events.warn("bits-for-target", f"{asked} is {wanted} for {target}: {NARROWER}")
        loaded = load_source(model, weights, num_classes, preprocessing)
        loaded, x_NCHW = draw_images(loaded, images, preprocessing is None, limit, views, seed, events)
        about = _about(loaded, x_NCHW, plan, wanted, taken, seed)
        if space.folder is not None and space.finished:
            return _finished(space.folder, about, place)
        store = space.store(about.model_dump(mode="json"))
        teacher = capture_checked(loaded, x_NCHW, place)
        run = Run(teacher, teacher.clone(), x_NCHW, wanted, seed, place, events, store, recipe=plan.name)
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
        space.finish(result, store, events)
        events.log("finished", **{k: v for k, v in metrics.items() if isinstance(v, float | int)})
    return result


@checked(target=MODEL)
@in_own_modes
def evaluate(
    target: str | Path | nn.Module | LoadedModel,
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
    if isinstance(target, str | Path) and is_artifact(Path(target)):
        given = {"weights": weights, "num_classes": num_classes, "preprocessing": preprocessing}
        if ignored := [name for name, value in given.items() if value is not None]:
            raise ArgumentError(f"'{target}' is an artifact, which has its own {' and '.join(ignored)}: leave them out")
        model = load(target, place)
        return model.evaluate(images, limit=limit, batch_size=batch_size, integer=integer, progress=progress)
    if integer:
        raise ArtifactError(f"{target} is no artifact, so it has no integer codes to run; quantize it first")
    loaded = load_source(str(target) if isinstance(target, Path) else target, weights, num_classes, preprocessing)
    source = open_images(images)
    if preprocessing is None and source.shape and source.shape[0] != loaded.preprocessing.input_size[0]:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.of_tensors(source.shape))
    with Events(console=progress) as events:
        loaded = settle_for(source, loaded, events.warn)
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


@checked()
@in_own_modes
def seal(path: str | Path) -> tuple[str, ...]:
    """Seal an artifact anew after an edit of its files, and return the names of those that were not sealed as they are.

    Everything but the hashes is checked as ``vitq.load`` does; ArtifactError where the files do not fit together.
    """
    return seal_files(Path(path))


def _planned(
    recipe: str | Path, budget: str, scope: str | None, target: str | None, overrides: Mapping[str, Any]
) -> ResolvedRecipe:
    """Resolve a recipe for a target, its scope by the first that names one: overrides, ``scope``, recipe, target."""
    profile = None if target is None else profile_of(target)
    chosen = {} if profile is None else dict(profile.overrides)
    chosen |= {} if scope is None else {"insert.scope": scope}
    defaults = {} if profile is None else {"insert.scope": profile.scopes[0]}
    plan = load_recipe(recipe, budget=budget, defaults=defaults, overrides={**chosen, **overrides})
    for step in plan.steps:
        if profile is not None and isinstance(step, Insert) and step.scope not in profile.scopes:
            known = " or ".join(profile.scopes)
            raise ExportError(
                f"target '{target}' is of scope {known}, not {step.scope}; leave one of them out, "
                f"or give scope {profile.scopes[0]} where the recipe says {step.scope}"
            )
    return plan


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

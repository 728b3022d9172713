"""One cell at work: quantize, measure, keep. ``python -m vitq.suites.work`` does it in a process of its own."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vitq._version import __version__
from vitq.artifact.files import exists, read_file
from vitq.data import load_labelled, open_images
from vitq.devices import choose_device, peak_memory
from vitq.evaluation import Metrics, measure
from vitq.evaluation.outcomes import Outcomes, Watch
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.quantizers import use_compiled_kernels, worth_compiling
from vitq.run.events import Events
from vitq.run.inputs import load_source, settle_for
from vitq.run.lock import locked
from vitq.suites.held_out import apart, judge
from vitq.suites.jobs import FAILED, Job, answer
from vitq.suites.store import RUN, Store
from vitq.verbs.quantize import quantize_whole

QUANTIZE = ("recipe", "bits", "budget", "scope", "target", "views", "overrides", "seed", "limit", "task")
FROM_RUN = ("agreement", "mean_segment_error", "size_bytes", "fp_size_bytes", "seconds", "peak_memory_bytes")


@in_own_modes
def measure_cell(job: Job) -> dict[str, Any]:
    """Return the result of a cell, from the store if it is there, else measured and kept there.

    A stopped run goes on. Raises VitqError for what cannot be measured, ResumeError where another process is at it.
    """
    store = Store(Path(job.store))
    folder = store.folder(job.key)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        known = None if job.overwrite else store.result(job.key)
        if known is None:
            if job.threads is not None:
                torch.set_num_threads(job.threads)
            known = {**_measured(job, folder), **_making(job)}
            store.write(job.key, known)
        return known


def _measured(job: Job, folder: Path) -> dict[str, Any]:
    return _floating(job) if job.call["recipe"] is None else _quantized(job, folder)


def _quantized(job: Job, folder: Path) -> dict[str, Any]:
    call, images, held_out = job.call, job.call["images"], job.call.get("held_out")
    if held_out is not None:
        left, others = apart(**held_out)
        images = left if images == held_out["images"] else images
    model = quantize_whole(
        call["model"],
        images,
        weights=call["weights"],
        num_classes=call["num_classes"],
        preprocessing=call["preprocessing"],
        out=folder / RUN,
        resume=not job.overwrite,
        overwrite=job.overwrite,
        device=job.device,
        progress=False,
        **{name: call[name] for name in QUANTIZE},
    )
    own = {**_costs(folder / RUN / "run.json"), **{k: v for k, v in model.metrics.to_dict().items() if v is not None}}
    preprocessing = Preprocessing.from_dict(model.config.preprocessing)
    found = _score(job, model, preprocessing, model.device, model.config.source.get("num_classes"))
    if held_out is not None:
        found["held_out"] = judge(model, _original(call), others)
    named = {"warnings": sorted({name for name, _ in model.metrics.warnings})}
    return {**{key: own.get(key) for key in FROM_RUN}, **named, **found}


def _original(call: Mapping[str, Any]) -> LoadedModel:
    given = (call["weights"], call["num_classes"], call["preprocessing"], call["task"])
    return load_source(call["model"], *given)


def _floating(job: Job) -> dict[str, Any]:
    call, began = job.call, time.monotonic()
    place = choose_device(job.device)
    with Events(None, console=False) as events:
        loaded = settle_for(open_images(call["validation"]), _original(call), events.warn)
        module = loaded.module.to(place)
        found = _score(job, module, loaded.preprocessing, place, loaded.num_classes)
        size = sum(t.nbytes for t in module.state_dict().values())
        costs = {"seconds": time.monotonic() - began, "peak_memory_bytes": peak_memory(place)}
        named = {"warnings": sorted({warned.name for warned in events.warnings})}
    return {"size_bytes": size, "fp_size_bytes": size, **costs, **named, **found}


def _score(
    job: Job, model: Any, preprocessing: Preprocessing, device: torch.device, classes: int | None
) -> dict[str, Any]:
    """Measure a model on the validation images; ``score`` is what its task looks at first."""
    source, limit = open_images(job.call["validation"]), job.call["validation_limit"]
    watch = Watch(job.call["task"])
    total = len(source) if limit is None else min(limit, len(source))
    fast = worth_compiling(total, preprocessing.input_size)
    with torch.no_grad(), use_compiled_kernels() if fast else nullcontext():
        batches = load_labelled(source, preprocessing, limit, num_classes=classes, workers=None)
        metrics, summary = measure(watch.forward(model), watch.batches(batches), device, task=job.call["task"])
    outcomes, first = watch.outcomes(), summary.task.metric
    values = {**{k: v for k, v in asdict(metrics).items() if v is not None}, **(metrics.scores or {})}
    scored = {"metric": first, "score": values.get(first), "images": metrics.images, **_scores(metrics)}
    return scored if outcomes is None else {**scored, "correct": packed(outcomes)}


def _scores(metrics: Metrics) -> dict[str, Any]:
    found = {"top1": metrics.top1, "top5": metrics.top5, **(metrics.scores or {})}
    return {"scores": {name: value for name, value in found.items() if value is not None}}


def packed(outcomes: Outcomes) -> str:
    """Return which images were right as text, eight a byte."""
    import numpy as np

    return bytes(np.packbits(outcomes.correct_N.numpy())).hex()


def unpacked(row: Mapping[str, Any]) -> Any:
    """Return which images of a result were right, (N,) of bool; None where it has no classes."""
    import numpy as np

    if "correct" not in row:
        return None
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["correct"]), np.uint8), count=row["images"]).astype(bool)


def _costs(path: Path) -> dict[str, Any]:
    """Return time and memory of a run that had ended before its cell was stopped."""
    return dict(json.loads(read_file(path))) if exists(path) else {}


def _making(job: Job) -> dict[str, Any]:
    """Return when, where and with what a result was made."""
    versions = {"vitq": __version__, "python": platform.python_version()}
    for package in ("torch", "timm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    place = choose_device(job.device)
    machine = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    made = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "device": place.type}
    return {**made, "threads": torch.get_num_threads(), "versions": versions}


def main() -> int:
    """Read a job from stdin, and write how it ended to stdout; all else that is printed is for the log."""
    mine = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # of libraries, in C too
    found = answer(measure_cell, json.load(sys.stdin))
    with mine:
        json.dump(found, mine)
    return 0 if "row" in found else FAILED


if __name__ == "__main__":
    sys.exit(main())

"""The end of a run: its model is saved whatever fails afterwards, and loaded where an equal run has left one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitq.artifact.files import reason, to_json_bytes, write_files
from vitq.artifact.schema import ArtifactConfig
from vitq.bits import MIXED
from vitq.errors import UnsavedError, VitqError
from vitq.model import QuantizedModel, load
from vitq.report.extras import Extras
from vitq.report.html import write_report
from vitq.report.training import training_of
from vitq.run.checkpoints import require_same
from vitq.run.events import Events


def load_finished(folder: Path, about: ArtifactConfig, device: torch.device) -> QuantizedModel:
    """Load the artifact that a run of the same inputs has left; ResumeError where it was made of others."""
    result = load(folder, device)
    own: dict[str, Any] = {"sites": {}, "hashes": {}}
    if about.bits == MIXED and result.config.bits.startswith(MIXED):  # the averages follow from the table
        own["bits"] = MIXED
    require_same(result.config.model_copy(update=own).model_dump(mode="json"), about.model_dump(mode="json"), folder)
    return result


def finish(model: QuantizedModel, folder: Path, events: Events, clear: Callable[[], object] = lambda: None) -> None:
    """Save the finished model of a run; what fails after that is a warning, for the model is whole.

    ``clear`` removes what is not needed then. Raises UnsavedError, which holds the model, where it cannot be saved; its
    checkpoints stay.
    """
    try:
        model.save(folder)
    except VitqError as error:
        raise UnsavedError(
            f"{error}; the checkpoints are kept, go on with --resume (in Python, the finished model is the "
            "error's .model)",
            model,
        ) from error
    page = replace(model.artifact, metrics=model.metrics.without_costs())
    extras: dict[str, Callable[[], object]] = {
        "run-costs": lambda: write_files(folder, {"run.json": to_json_bytes(model.metrics.costs())}),
        "report": lambda: write_report(folder / "report.html", page, Extras(model.evidence, training_of(folder))),
        "leftovers": clear,
    }
    for name, work in extras.items():
        try:
            work()
        except Exception as error:  # whatever it is, it must not take the model away
            events.warn(name, f"{error if isinstance(error, VitqError) else reason(error)}; the artifact is saved")

"""Public verbs that show: the report of a run, and what will be hard about a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.arguments import checked
from vitq.bits import Bits
from vitq.devices import choose_device
from vitq.diagnosis import Diagnosis, diagnose_loaded
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.report.diagnosis import check_page, write_diagnosis
from vitq.run.events import Events
from vitq.run.inputs import load_source
from vitq.verbs.report import report_runs


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

    Confidence, entropy and agreement between crops say whether the preprocessing fits. Then everything is quantized to
    ``bits`` by recipe repq, and each site, and each role, is left out in turn. ``limit`` images are looked at, and
    labels are used where every image has one; sites are left out on some of them. With ``out`` the page is written
    there. Other arguments as in ``vitq.quantize``. Raises a VitqError that names the fault of model, images or page.
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

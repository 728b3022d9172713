"""What is measured, by name: the rows of a benchmark."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vitq.artifact.artifact import Artifact
from vitq.artifact.schema import ArtifactConfig
from vitq.data import draw_calibration, load_labelled, open_images
from vitq.errors import ExportError
from vitq.models import Preprocessing
from vitq.run.events import Events

Run = Path | Artifact
"""The folder of an artifact, or an artifact that is loaded."""


def named(runs: Sequence[Run] | Mapping[str, Run], reserved: Collection[str]) -> dict[str, Run]:
    """Return runs by name: a folder by the end of its path that no other has, a model by what it was made of.

    A mapping names them itself. Raises ExportError for a folder that is given twice, and for two models that only a
    mapping tells apart.
    """
    if isinstance(runs, Mapping):
        return dict(runs)
    folders = [run for run in runs if isinstance(run, Path)]
    names = {id(run): name for name, run in names_of(folders, reserved).items()}
    found: dict[str, Run] = {}
    for run in runs:
        name = names[id(run)] if isinstance(run, Path) else _made_of(run)
        if name in found:
            raise ExportError(f"two runs have the name '{name}'; give a mapping from names to runs")
        found[name] = run
    return found


def names_of(folders: Sequence[Path], reserved: Collection[str]) -> dict[str, Path]:
    """Return each folder by the shortest end of its path that no other folder and no ``reserved`` name has.

    Raises ExportError for a folder that is named twice.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ExportError(f"{folder} is named twice; a run is measured once")
    parts = [folder.absolute().parts for folder in folders]
    found: dict[str, Path] = {}
    for folder, own in zip(folders, parts, strict=True):
        ends = (own[-length:] for length in range(1, len(own) + 1))
        alone = (end for end in ends if sum(other[-len(end) :] == end for other in parts) == 1)
        name = next((str(Path(*end)) for end in alone if str(Path(*end)) not in reserved), str(Path(*own)))
        found[name] = folder
    return found


def drawn(
    config: ArtifactConfig, images: Any, validation: Any, limit: int, events: Events
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return images x_NCHW and labelled batches (x_BCHW, labels_B), prepared as ``config`` says; none is no batch."""
    preprocessing, classes = Preprocessing.from_dict(config.preprocessing), config.source.get("num_classes")
    source = open_images(images, labels=False, limit=limit)
    x_NCHW = draw_calibration(source, preprocessing, limit=limit, warn=events.warn)
    if validation is None:
        return x_NCHW, []
    batches = load_labelled(open_images(validation), preprocessing, None, batch_size=16, num_classes=classes)
    return x_NCHW, list(batches)


def _made_of(artifact: Artifact) -> str:
    config = artifact.config
    return f"{config.source.get('name', 'model')}-{config.recipe.get('name', 'recipe')}-{config.bits}"

"""Artifacts by folder, measured side by side: what ``vitq bench`` does."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitq.arguments import checked
from vitq.data import draw_calibration, load_labelled, open_images
from vitq.errors import ArgumentError, ExportError
from vitq.export.targets import Cpu, require_export
from vitq.model import load
from vitq.models import Preprocessing
from vitq.modes import in_own_modes
from vitq.run.events import Events
from vitq.run.inputs import load_source

if TYPE_CHECKING:
    from vitq.bench.bench import Measured


@checked()
@in_own_modes
def bench_runs(
    runs: Sequence[str | Path],
    images: Any,
    *,
    validation: Any = None,
    floating: str | None = None,
    weights: str | Path | None = None,
    batch: Sequence[int] = (1, 16),
    threads: int = 1,
    rounds: int = 20,
    limit: int = 64,
    cpu: str = Cpu.ANY,
    rivals: bool = True,
    progress: bool = False,
) -> "list[Measured]":
    """Measure exported artifacts of one model against floating point and the runtimes' own int8.

    ``limit`` of ``images`` are run, and are the calibration data of the rivals; labelled ``validation`` adds accuracy.
    ``floating`` (with ``weights``) is the model that the ``runs`` were made of; without it float32 is the first run's
    graph without quantizers. Raises ArtifactError for a folder without an artifact, ExportError for one named twice.
    """
    require_export()
    if weights is not None and floating is None:
        raise ArgumentError("weights are those of the floating-point model; name it with floating")
    from vitq.bench.bench import RESERVED, bench

    models = {name: load(run) for name, run in names([Path(run) for run in runs], RESERVED).items()}
    first = next(iter(models.values())).config
    classes = first.source.get("num_classes")
    preprocessing = Preprocessing.from_dict(first.preprocessing)
    with Events(console=progress) as events:
        source = open_images(images, labels=False, limit=limit)
        x_NCHW = draw_calibration(source, preprocessing, limit=limit, warn=events.warn)
        labelled = []
        if validation is not None:
            judged = open_images(validation)
            labelled = list(load_labelled(judged, preprocessing, None, batch_size=16, num_classes=classes))
        return bench(
            models,
            x_NCHW,
            batches=batch,
            threads=threads,
            rounds=rounds,
            rivals=rivals,
            labelled=labelled,
            cpu=cpu,
            floating=None if floating is None else load_source(floating, weights, classes, None),
            events=events,
        )


def names(runs: Sequence[Path], reserved: Collection[str]) -> dict[str, Path]:
    """Return each run by the shortest end of its path that no other run and no ``reserved`` name has.

    Raises ExportError for a run that is named twice.
    """
    places = [run.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise ExportError(f"{run} is named twice; a run is measured once")
    parts = [run.absolute().parts for run in runs]
    found: dict[str, Path] = {}
    for run, own in zip(runs, parts, strict=True):
        ends = (own[-length:] for length in range(1, len(own) + 1))
        alone = (end for end in ends if sum(other[-len(end) :] == end for other in parts) == 1)
        name = next((str(Path(*end)) for end in alone if str(Path(*end)) not in reserved), str(Path(*own)))
        found[name] = run
    return found

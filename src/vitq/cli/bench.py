"""``vitq bench``: accuracy, size and speed of exported artifacts in one table."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vitq.cli.console import print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, FloatingWeights, ForCpu, Quiet
from vitq.errors import ExportError
from vitq.export.targets import Cpu


@guarded
def bench(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Artifacts of one model, by folder.")],
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Images to run; calibration data of the runtimes' own int8 models.")
    ],
    validation: Annotated[
        str | None, typer.Option(metavar="DIR", help="Labelled images: also measure the files' accuracy.")
    ] = None,
    floating: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that the RUNs were made of, as float32. Default: the first RUN's weights, not quantized.",
        ),
    ] = None,
    weights: FloatingWeights = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Batch sizes. Default: 1 and 16.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repetitions; medians are shown.")] = 20,
    limit: Annotated[int, typer.Option(min=1, help="How many of --images to take.")] = 64,
    cpu: ForCpu = Cpu.ANY,
    rivals: Annotated[bool, typer.Option(help="Also the runtimes' own int8 models (NNCF where installed).")] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure exported artifacts against floating point and the runtimes' own int8.

    Example: vitq bench runs/deit-w8a8 runs/deit-w4a8 --images photos/ --validation val/
    """
    import vitq
    from vitq.data import draw_calibration, load_labelled, open_images
    from vitq.export.targets import require_export
    from vitq.models import Preprocessing
    from vitq.run.events import Events
    from vitq.run.inputs import load_source

    require_export()
    from vitq.bench.bench import RESERVED
    from vitq.bench.bench import bench as measure

    models = {name: vitq.load(run) for name, run in names(runs, RESERVED).items()}
    first = next(iter(models.values())).config
    classes = first.source.get("num_classes")
    preprocessing = Preprocessing.from_dict(first.preprocessing)
    with Events(console=not quiet) as events:
        x_NCHW = draw_calibration(
            open_images(images, labels=False, limit=limit), preprocessing, limit=limit, warn=events.warn
        )
        labelled = []
        if validation is not None:
            source = open_images(validation)
            labelled = list(load_labelled(source, preprocessing, None, batch_size=16, num_classes=classes))
        rows = measure(
            models,
            x_NCHW,
            batches=tuple(batch or (1, 16)),
            threads=threads,
            rounds=rounds,
            rivals=rivals,
            labelled=labelled,
            cpu=cpu,
            floating=None if floating is None else load_source(floating, weights, classes, None),
            events=events,
        )
    if as_json:
        print_json({"threads": threads, "rounds": rounds, "rows": [asdict(row) for row in rows]})
        return
    from vitq.report.exported import bench_table

    show(bench_table(rows, threads))


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

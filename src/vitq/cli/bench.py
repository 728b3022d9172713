"""``vitq bench``: accuracy, size and speed of exported artifacts in one table."""

from dataclasses import asdict
from typing import Annotated

import typer

from vitq.cli.console import print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, FloatingWeights, ForCpu, Quiet, Task
from vitq.export.targets import Cpu


@guarded
def bench(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Artifacts of one model, by folder.")],
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Images to run; calibration data of the runtimes' own int8 models.")
    ],
    validation: Annotated[
        str | None, typer.Option(metavar="DIR", help="Labelled images: also measure what the files score.")
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
    baselines: Annotated[bool, typer.Option(help="Also the runtimes' own int8 models (NNCF where installed).")] = True,
    task: Task = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure exported artifacts against floating point and the runtimes' own int8.

    Example: vitq bench runs/deit-w8a8 runs/deit-w4a8 --images photos/ --validation val/
    """
    import vitq

    rows = vitq.bench(
        runs,
        images,
        validation=validation,
        floating=floating,
        weights=weights,
        batch=batch or (1, 16),
        threads=threads,
        rounds=rounds,
        limit=limit,
        cpu=cpu,
        baselines=baselines,
        task=task,
        progress=not quiet,
    )
    if as_json:
        print_json({"threads": threads, "rounds": rounds, "rows": [asdict(row) for row in rows]})
        return
    from vitq.report.exported import bench_table

    show(bench_table(rows, threads))

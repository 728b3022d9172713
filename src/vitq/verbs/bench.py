"""What ``vitq.bench`` does with its arguments: artifacts and images are opened, then measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vitq.bench.saved import write_bench
from vitq.errors import ArgumentError, VitqError
from vitq.export.targets import cpu_of, profile_of, require_export
from vitq.model import load
from vitq.models import LoadedModel
from vitq.run.events import Events
from vitq.run.inputs import load_source

if TYPE_CHECKING:
    from vitq.bench.bench import Measured


def bench_runs(
    runs: Any,
    images: Any,
    *,
    validation: Any,
    floating: str | nn.Module | LoadedModel | None,
    weights: str | Path | None,
    batches: Sequence[int],
    threads: int,
    rounds: int,
    limit: int,
    cpu: str,
    baselines: bool,
    task: str | None,
    progress: bool,
) -> list["Measured"]:
    """Load runs, floating point and images, and measure; arguments and errors as of ``vitq.bench``."""
    require_export()
    from vitq.bench.bench import RESERVED
    from vitq.bench.bench import bench as measured
    from vitq.bench.runs import drawn, named

    if weights is not None and floating is None:
        raise ArgumentError("weights are those of the floating-point model; name it with floating")
    cpu_of(cpu, profile_of("onnxruntime"))
    found = named(runs, RESERVED)
    artifacts = {name: load(run).artifact if isinstance(run, Path) else run for name, run in found.items()}
    config = next(iter(artifacts.values())).config
    classes = config.source.get("num_classes")
    with Events(console=progress) as events:
        x_NCHW, labelled = drawn(config, images, validation, limit, events)
        rows = measured(
            artifacts,
            x_NCHW,
            batches=batches,
            threads=threads,
            rounds=rounds,
            baselines=baselines,
            labelled=labelled,
            floating=None if floating is None else load_source(floating, weights, classes, None),
            cpu=cpu,
            task=task,
            events=events,
        )
        for name, run in found.items():
            if isinstance(run, Path):
                model = artifacts[name].config.hashes["model.safetensors"]
                try:
                    write_bench(run, name, model, rows, threads, rounds)
                except VitqError as error:
                    events.warn("not-kept", f"{error}; the report of '{name}' will not say how fast it is")
        return rows

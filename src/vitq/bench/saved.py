"""What ``vitq bench`` leaves in the folder of a run, so that its report can say how fast it is: ``bench.json``."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from vitq.artifact.files import damaged, exists, parse_json, read_file, to_json_bytes, write_files
from vitq.artifact.ownership import require_own

if TYPE_CHECKING:
    from vitq.bench.bench import Measured

BENCH = "bench.json"
FLOATING = ("float32", "bfloat16")
"""Rows that are kept beside the run's own."""


class Row(BaseModel):
    """One line of the benchmark: medians in milliseconds a batch, ``ratios`` to float32 in the same runtime."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: str
    runtime: str
    size_bytes: int
    milliseconds: dict[int, float]
    ratios: dict[int, float]
    top1: float | None = None


class Bench(BaseModel):
    """The lines of one run and of floating point, and what they were measured with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vitq: Literal["bench"] = "bench"
    name: str
    model: str
    """SHA-256 of the model.safetensors that was measured."""
    threads: int
    rounds: int
    processor: str
    rows: tuple[Row, ...] = Field(min_length=1)

    def own(self) -> tuple[Row, ...]:
        """Return the lines of the run itself."""
        return tuple(row for row in self.rows if row.name not in FLOATING)


def write_bench(folder: Path, name: str, model: str, rows: Sequence["Measured"], threads: int, rounds: int) -> None:
    """Write the lines of run ``name`` into its ``folder``; ArtifactError where another file of that name is there.

    ``model`` is the SHA-256 of its model.safetensors. Without a line nothing is written.
    """
    require_own(folder, (BENCH,))
    kept = [row for row in rows if row.name in FLOATING or row.name.removesuffix(" + bfloat16") == name]
    if not kept:
        return
    processor = platform.processor() or platform.machine()
    bench = Bench(
        name=name,
        model=model,
        threads=threads,
        rounds=rounds,
        processor=processor,
        rows=tuple(Row.model_validate(asdict(row)) for row in kept),
    )
    write_files(folder, {BENCH: to_json_bytes(bench.model_dump(mode="json"))})


def read_bench(folder: Path) -> Bench | None:
    """Return what was measured of the run in ``folder``, None where nothing was; ArtifactError for a damaged file."""
    path = folder / BENCH
    if not exists(path):
        return None
    data = parse_json(read_file(path), path)
    with damaged(path):
        return Bench.model_validate(data)

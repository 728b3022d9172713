"""The measurement behind ``vitq.bench``: speed, size and accuracy of what was exported, side by side."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from vitq.artifact.artifact import Artifact
from vitq.bench.baselines import nncf_static, onnxruntime_static
from vitq.bench.peak_memory import added_peak_memory
from vitq.devices import supports_bfloat16
from vitq.errors import ExportError
from vitq.evaluation import Metrics, measure
from vitq.export.build import build, properties
from vitq.export.floating import baseline
from vitq.export.runtimes import SESSIONS, Content, Session, compile_content, runtime_version, size_of
from vitq.export.saturation import NONE, Overflow, cause, overflowing
from vitq.export.targets import PROFILES, Cpu, cpu_of
from vitq.export.verify.outputs import by_name
from vitq.graph import Graph
from vitq.models import LoadedModel
from vitq.run.events import Events
from vitq.tasks import task_for

CPU = torch.device("cpu")
FLOAT32, BFLOAT16, OWN, NNCF = "float32", "bfloat16", "onnxruntime's own int8", "NNCF's int8"
RESERVED = frozenset({FLOAT32, BFLOAT16, OWN, NNCF})
"""Names of the rows that are no artifact's."""


@dataclass(frozen=True)
class Candidate:
    """One compiled model: what it is, where it runs, what it was compiled from."""

    name: str
    runtime: str
    content: Content
    bfloat16: bool
    session: Session

    @property
    def size_bytes(self) -> int:
        """Return its size on disk."""
        return size_of(self.content)


@dataclass(frozen=True)
class Measured:
    """One line of the result: medians in milliseconds a batch, ``ratios`` to floating point in the same runtime.

    ``top1`` in percent, of the file and not of its simulation; None without labelled images or classes. ``scores`` are
    the task's own, by name, the first one first; empty without labelled images. ``memory_bytes``: how
    much compiling it and the largest batch raise a process's peak memory.
    """

    name: str
    runtime: str
    size_bytes: int
    memory_bytes: int
    integer_products: int
    milliseconds: dict[int, float]
    ratios: dict[int, float]
    top1: float | None
    scores: dict[str, float] = field(default_factory=dict)


def compile_candidates(
    artifacts: Mapping[str, Artifact],
    x_NCHW: torch.Tensor,
    threads: int,
    baselines: bool,
    floating: LoadedModel | None = None,
    cpu: Cpu = Cpu.ANY,
) -> list[Candidate]:
    """Compile floating point, bfloat16, every artifact and what the runtimes make themselves, per installed runtime."""
    first, example = next(iter(artifacts.values())), x_NCHW[:2]
    bf16 = supports_bfloat16(CPU)
    unquantized = (
        build(without_quantizers(first.graph), {}, example, {})
        if floating is None
        else baseline(floating, first, example)
    )
    found: list[Candidate] = []
    written: dict[tuple[str, Overflow], bytes] = {}  # runtimes in which the same products overflow take the same file
    for runtime in (name for name in SESSIONS if runtime_version(name) is not None):
        mixed = runtime == "openvino" and bf16
        contents: dict[str, Content] = {FLOAT32: unquantized}
        for name, one in artifacts.items():
            wide = overflowing(one.graph, one.weights, PROFILES[runtime])
            if (name, wide) not in written:
                written[name, wide] = _file(one, wide, example, cpu)
            contents[name] = written[name, wide]
        if baselines and runtime == "onnxruntime":
            contents[OWN] = onnxruntime_static(unquantized, x_NCHW)
        elif baselines and (nncf := nncf_static(unquantized, x_NCHW)) is not None:
            contents[NNCF] = nncf
        for name, content in contents.items():
            found.append(Candidate(name, runtime, content, False, compile_content(runtime, content, threads)))
            if mixed:
                session = compile_content(runtime, content, threads, bfloat16=True)
                label = BFLOAT16 if name == FLOAT32 else f"{name} + bfloat16"
                found.append(Candidate(label, runtime, content, True, session))
    return found


def bench(
    artifacts: Mapping[str, Artifact],
    x_NCHW: torch.Tensor,
    *,
    batches: Sequence[int] = (1, 16),
    threads: int = 1,
    rounds: int = 20,
    baselines: bool = True,
    labelled: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    floating: LoadedModel | None = None,
    cpu: str = Cpu.ANY,
    task: str | None = None,
    events: Events | None = None,
) -> list[Measured]:
    """Measure all candidates in turn, ``rounds`` times, so that what else the machine does falls on all alike.

    ``x_NCHW`` are preprocessed images, also the calibration data of the baselines. ``floating`` is the model that the
    first artifact was made of; without it float32 is that artifact's graph without quantizers, with its weights.
    ``cpu``: as in ``export``; ``task`` names another one than the first artifact's. Raises ExportError for a model that
    cannot be exported, for another ``floating``, and for a name of ``artifacts`` that another row has.
    """
    if taken := sorted(RESERVED & artifacts.keys()):
        raise ExportError(f"a model cannot be named '{taken[0]}' here: that is the name of another row; choose another")
    events, wanted = events or Events(), cpu_of(cpu, PROFILES["onnxruntime"])
    for name, artifact in artifacts.items():
        for runtime in (r for r in SESSIONS if runtime_version(r) is not None):
            profile = PROFILES[runtime]
            if reason := cause(overflowing(artifact.graph, artifact.weights, profile), profile, wanted):
                events.warn("saturation", f"{name} in {runtime}: {reason}")
    candidates = compile_candidates(artifacts, x_NCHW, threads, baselines, floating, wanted)
    times: dict[tuple[int, int], list[float]] = {}
    with events.task("bench", len(batches) * rounds) as bar:
        for batch in batches:
            x = _cycled(x_NCHW, batch)
            for candidate in candidates:
                candidate.session(x)  # the first run allocates
            for _ in range(rounds):
                for i, candidate in enumerate(candidates):
                    began = time.perf_counter()
                    candidate.session(x)
                    times.setdefault((i, batch), []).append(1000 * (time.perf_counter() - began))
                bar.advance()
    medians = {key: statistics.median(values) for key, values in times.items()}
    unquantized = {c.runtime: i for i, c in enumerate(candidates) if c.name == FLOAT32}
    largest = _cycled(x_NCHW, max(batches))
    rows: list[Measured] = []
    first = next(iter(artifacts.values()))
    names, kind = tuple(first.graph.outputs), task or first.config.task
    metric = task_for(first.graph.output_shapes, kind).metric
    with events.task("memory and accuracy", len(candidates)) as bar:
        for i, c in enumerate(candidates):
            score = measure(by_name(c.session, names), labelled, CPU, task=kind)[0] if labelled else None
            row = Measured(
                c.name,
                c.runtime,
                c.size_bytes,
                added_peak_memory(c.runtime, c.content, largest, threads, c.bfloat16),
                c.session.integer_products(),
                {batch: medians[i, batch] for batch in batches},
                {batch: medians[unquantized[c.runtime], batch] / medians[i, batch] for batch in batches},
                None if score is None else score.top1,
                {} if score is None else scored(score, metric),
            )
            rows.append(row)
            bar.advance()
    return rows


def scored(metrics: Metrics, metric: str) -> dict[str, float]:
    """Return what was scored by name, ``metric`` first."""
    own = {name: value for name in ("top1", "top5") if (value := getattr(metrics, name)) is not None}
    found = {**own, **(metrics.scores or {})}
    return {name: found[name] for name in sorted(found, key=lambda name: name != metric)}


def _file(artifact: Artifact, wide: Overflow, example_BCHW: torch.Tensor, cpu: Cpu) -> bytes:
    """Return the file of ``artifact`` that ``export`` writes."""
    about = properties(artifact, "bench", cpu if wide else Cpu.ANY)
    return build(artifact.graph, artifact.weights, example_BCHW, about, overflow=wide if cpu is Cpu.ANY else NONE)


def without_quantizers(graph: Graph) -> Graph:
    """Return a copy of ``graph`` in floating point: the same operations on weights of the same size."""
    unquantized = graph.clone()
    unquantized.remove(*unquantized.quantizers)
    return unquantized


def _cycled(x_NCHW: torch.Tensor, count: int) -> torch.Tensor:
    return x_NCHW.repeat(-(-count // len(x_NCHW)), 1, 1, 1)[:count].contiguous()

"""The public verb ``bench``: speed, size and accuracy of what was exported, side by side."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vitq.events import Events
from vitq.export.export import build, properties
from vitq.export.rivals import nncf_static, onnxruntime_static
from vitq.export.runtimes import OnnxRuntime, OpenVino, Session, runtime_version
from vitq.graph import Graph
from vitq.reconstruct.activations import supports_bfloat16

if TYPE_CHECKING:
    from vitq.quantized import QuantizedModel


@dataclass(frozen=True)
class Contender:
    """One compiled model: what it is, where it runs, its size on disk in bytes."""

    name: str
    runtime: str
    session: Session
    size_bytes: int
    integer_products: int


@dataclass(frozen=True)
class Measured:
    """One line of the result: medians in milliseconds a batch, ``ratios`` to floating point in the same runtime.

    ``top1`` in percent, of the file and not of its simulation; None without labelled images.
    """

    name: str
    runtime: str
    size_bytes: int
    integer_products: int
    milliseconds: dict[int, float]
    ratios: dict[int, float]
    top1: float | None


def contenders(
    models: dict[str, "QuantizedModel"], x_NCHW: torch.Tensor, threads: int, rivals: bool
) -> list[Contender]:
    """Compile floating point, bfloat16, every model and what the runtimes make themselves, per installed runtime."""
    first, example = next(iter(models.values())), x_NCHW[:2]
    bf16 = supports_bfloat16(torch.device("cpu"))
    floating = build(without_quantizers(first.graph), {}, example, {})
    files = {name: build(m.graph, m.weights, example, properties(m, "bench")) for name, m in models.items()}
    found: list[Contender] = []

    def add(name: str, runtime: str, content: Any, size: int, bfloat16: bool = False) -> None:
        session: Session = (
            OnnxRuntime(content, threads=threads)
            if runtime == "onnxruntime"
            else OpenVino(content, threads=threads, bfloat16=bfloat16)
        )
        found.append(Contender(name, runtime, session, size, session.integer_products()))

    for runtime in ("onnxruntime", "openvino"):
        if runtime_version(runtime) is None:
            continue
        add("float32", runtime, floating, len(floating))
        with_bf16 = runtime == "openvino" and bf16
        if with_bf16:
            add("bfloat16", runtime, floating, len(floating), True)
        for name, content in files.items():
            add(name, runtime, content, len(content))
            if with_bf16:
                add(f"{name} + bfloat16", runtime, content, len(content), True)
        if not rivals:
            continue
        if runtime == "onnxruntime":
            own = onnxruntime_static(floating, x_NCHW)
            add("onnxruntime's own int8", runtime, own, len(own))
        elif (nncf := nncf_static(floating, x_NCHW)) is not None:
            add("NNCF's int8", runtime, nncf, 0)
            if bf16:
                add("NNCF's int8 + bfloat16", runtime, nncf, 0, True)
    return found


def bench(
    models: dict[str, "QuantizedModel"],
    x_NCHW: torch.Tensor,
    *,
    batches: Sequence[int] = (1, 16),
    threads: int = 1,
    rounds: int = 20,
    rivals: bool = True,
    labelled: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    events: Events | None = None,
) -> list[Measured]:
    """Measure all contenders in turn, ``rounds`` times, so that what else the machine does falls on all alike.

    ``x_NCHW`` are preprocessed images, also the calibration data of the rivals. Raises ExportError for a model that
    cannot be exported.
    """
    events = events or Events()
    field = contenders(models, x_NCHW, threads, rivals)
    times: dict[tuple[int, int], list[float]] = {}
    with events.task("bench", len(batches) * rounds) as task:
        for batch in batches:
            x = x_NCHW.repeat(-(-batch // len(x_NCHW)), 1, 1, 1)[:batch].contiguous()
            for contender in field:
                contender.session(x)  # the first run allocates
            for _ in range(rounds):
                for i, contender in enumerate(field):
                    began = time.perf_counter()
                    contender.session(x)
                    times.setdefault((i, batch), []).append(1000 * (time.perf_counter() - began))
                task.advance()
    medians = {key: statistics.median(values) for key, values in times.items()}
    plain = {c.runtime: i for i, c in enumerate(field) if c.name == "float32"}
    return [
        Measured(
            c.name,
            c.runtime,
            c.size_bytes,
            c.integer_products,
            {batch: medians[i, batch] for batch in batches},
            {batch: medians[plain[c.runtime], batch] / medians[i, batch] for batch in batches},
            accuracy(c.session, labelled),
        )
        for i, c in enumerate(field)
    ]


def accuracy(session: Session, labelled: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float | None:
    """Return top-1 in percent over batches (x_BCHW, label_B), None without any."""
    right = total = 0
    for x_BCHW, label_B in labelled:
        right += int((session(x_BCHW)[0].argmax(-1) == label_B).sum())
        total += len(label_B)
    return 100 * right / total if total else None


def without_quantizers(graph: Graph) -> Graph:
    """Return a copy of ``graph`` in floating point: the same operations on weights of the same size."""
    plain = graph.clone()
    for site in list(plain.quantizers):
        plain.remove(site)
    return plain

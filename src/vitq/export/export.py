"""The public verb ``export``: lower, write, prove."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitq.artifact.artifact import Artifact
from vitq.errors import ExportError
from vitq.export.besides import note, products_only
from vitq.export.build import build, properties
from vitq.export.files import check_place, write
from vitq.export.floating import baseline
from vitq.export.lower import refusals
from vitq.export.openvino_ir import named, to_ir
from vitq.export.runtimes import SESSIONS, Content, require, size_of
from vitq.export.saturation import NONE, cause, overflowing
from vitq.export.targets import IR, OPSET, Cpu, Profile, check_opset, cpu_of, profile_of
from vitq.export.verify.integer_products import (
    expected_integer_convolutions,
    expected_integer_products,
    split_operators,
)
from vitq.export.verify.outputs import Batches, EndToEnd, Floating, compare, complaints
from vitq.export.verify.pieces import MakeSession
from vitq.export.verify.rounded_biases import moved_by_biases
from vitq.export.verify.segments import SegmentProof, prove
from vitq.models import LoadedModel
from vitq.run.events import Events

FLIPPED, ERROR = 1e-3, 1e-5
"""Bounds of the proof: share of a block's codes that differ, largest relative error of a block's end."""


@dataclass(frozen=True)
class Exported:
    """A written file, and its proof.

    ``integer_products`` of ``promised`` run in integer kernels, ``integer_convolutions`` of ``promised_convolutions``;
    ``end`` compares whole models; all None where the target does not run here. ``cpu``: the x86 CPUs on which the file
    computes that, None where it is for none.
    """

    path: Path
    target: str
    size_bytes: int
    promised: int
    integer_products: int | None
    segments: tuple[SegmentProof, ...]
    end: EndToEnd | None
    notes: tuple[str, ...]
    cpu: Cpu | None = None
    promised_convolutions: int = 0
    integer_convolutions: int | None = None


def check_request(out: str | Path, target: str, opset: int, cpu: str, force: bool) -> tuple[Profile, Path, Cpu]:
    """Return what was asked for, checked without the model; ExportError for what cannot be, or be written."""
    profile, path = profile_of(target), Path(out)
    check_opset(opset)
    wanted = cpu_of(cpu, profile)
    if path.suffix not in profile.suffixes:
        raise ExportError(f"--out {path}: name a file that ends in {' or '.join(profile.suffixes)} for {target}")
    check_place(path, force)
    return profile, path, wanted


def export(
    artifact: Artifact,
    out: str | Path,
    images_NCHW: torch.Tensor,
    *,
    target: str,
    opset: int = OPSET,
    cpu: str = Cpu.ANY,
    labelled: Batches | None = None,
    floating: LoadedModel | None = None,
    force: bool = False,
    events: Events | None = None,
) -> Exported:
    """Write ``artifact`` for ``target`` and prove on images that the file computes what the simulation does.

    ``out`` ends in .onnx or, for openvino, in .xml; its weights are then written beside it, into a .bin. ``cpu`` says
    which x86 CPUs the file is for: "any", or "vnni" for those that add int8 products in 32 bits. ``labelled`` adds
    accuracies; ``floating``, the model that it was made of, is exported and compared too.
    Raises ExportError before any work for an impossible ``opset`` or place, what has no lowering, another ``floating``,
    a missing runtime or a comparison asked of a target that does not run here, and, unless ``force``, for a ``cpu``
    that this one is not, and instead of writing a file that fails its proof.
    """
    profile, path, wanted = check_request(out, target, opset, cpu, force)
    artifact, left = products_only(artifact)
    refused = refusals(artifact.graph, artifact.weights, profile)
    if refused:
        count = f"{len(refused)} site{'s' if len(refused) > 1 else ''}"
        raise ExportError(f"{count} cannot be exported to {target}, the first: {refused[0]}")
    if profile.runtime is None and (labelled or floating):
        raise ExportError(
            f"{target} does not run here, so nothing can be compared; leave --validation and --floating out"
        )
    plain, wide, reason = None, overflowing(artifact.graph, artifact.weights, profile), ""
    if profile.runtime:
        require(profile.runtime)
        reason = cause(wide, profile, wanted)
        if reason and not force:
            raise ExportError(f"{path} was not written: {reason}; --force writes it all the same")
        if floating is not None:
            plain = Floating(floating.module, SESSIONS[profile.runtime](baseline(floating, artifact, images_NCHW[:2])))
    taken = None if profile.runtime is None else wanted if wide else Cpu.ANY  # elsewhere both are the same file
    avoided = wide if wanted is Cpu.ANY else NONE
    about = {**properties(artifact, target, taken), **({"vitq.floating": left} if left else {})}
    graph = build(artifact.graph, artifact.weights, images_NCHW[:2], about, profile.carrier, opset, avoided)
    promised, notes = expected_integer_products(artifact.graph, artifact.weights, profile, avoided.weights)
    notes += (*((note(left),) if left else ()), *(() if profile.runtime else (profile.note,)))
    content: Content = to_ir(graph) if path.suffix == IR else graph
    convolutions = expected_integer_convolutions(artifact.graph, artifact.weights, profile, avoided.weights)
    result = Exported(path, target, size_of(content), promised, None, (), None, notes, taken, convolutions)
    failed = split_operators(artifact.graph, graph, profile)
    if profile.runtime:
        batches = labelled or (lambda: ((x_BCHW, None) for x_BCHW in images_NCHW.split(32)))
        session = SESSIONS[profile.runtime]
        result = _proven(result, session, artifact, content, images_NCHW, batches, plain, events or Events())
        failed += failures(result)
    if failed and not force:
        raise ExportError(f"{path} was not written: {'; '.join(failed)}; --force writes it all the same")
    result = replace(result, notes=(*failed, *filter(None, (reason,)), *result.notes))
    write(path.parent, named(content, path))
    return result


def failures(result: Exported) -> list[str]:
    """Return what of a proof is out of bounds."""
    lines: list[str] = []
    worst = max(result.segments, key=lambda proof: proof.error)
    flips = max(result.segments, key=lambda proof: proof.flipped - proof.moved)
    if worst.error > ERROR:
        lines.append(f"segment '{worst.name}' is {worst.error:.2g} off (bound {ERROR:g})")
    if flips.flipped > FLIPPED + flips.moved:
        bound = f"{100 * (FLIPPED + flips.moved):.2g} %"
        lines.append(f"{100 * flips.flipped:.2g} % of the codes in segment '{flips.name}' differ ({bound})")
    if result.integer_products is not None and result.integer_products < result.promised:
        lines.append(f"{result.integer_products} of {result.promised} promised products run in integer kernels")
    if result.integer_convolutions is not None and result.integer_convolutions < result.promised_convolutions:
        count = f"{result.integer_convolutions} of {result.promised_convolutions}"
        lines.append(f"{count} promised convolutions run in integer kernels")
    return lines + ([] if result.end is None else complaints(result.end))


def _proven(
    result: Exported,
    session: MakeSession,
    artifact: Artifact,
    content: Content,
    images_NCHW: torch.Tensor,
    batches: Batches,
    floating: Floating | None,
    events: Events,
) -> Exported:
    whole = session(content)
    moved = moved_by_biases(artifact.graph, artifact.weights) if result.target == "onnxruntime" else {}
    segments = prove(content, artifact.graph, images_NCHW, session, events, moved)
    end = compare(artifact.graph, whole, batches, floating, tuple(artifact.graph.outputs), artifact.config.task)
    return replace(
        result,
        integer_products=whole.integer_products(),
        integer_convolutions=whole.integer_convolutions(),
        segments=segments,
        end=end,
    )

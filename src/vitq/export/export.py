"""The public verb ``export``: lower, write, prove."""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch

from vitq.artifact import write_files
from vitq.errors import ExportError
from vitq.events import Events
from vitq.export.emit import to_onnx
from vitq.export.lower import lower, refusals
from vitq.export.parity import SegmentProof, prove, tensor_names
from vitq.export.runtimes import SESSIONS, Session, require
from vitq.graph import Graph
from vitq.graph.ops import LINEAR, is_op
from vitq.quantizers import Quantizer
from vitq.targets import Profile, profile_of

if TYPE_CHECKING:
    from vitq.quantized import QuantizedModel

FLIPPED, ERROR = 1e-3, 1e-4
"""Bounds of the proof: share of a block's codes that differ, largest relative error of a block's end."""


@dataclass(frozen=True)
class Exported:
    """What was written and what is proven of it.

    ``integer_products`` of ``promised`` run in integer kernels; ``agreement`` is that of the file's top-1 with the
    simulation's in percent, end to end; None where the target does not run here.
    """

    path: Path
    target: str
    size_bytes: int
    promised: int
    integer_products: int | None
    segments: tuple[SegmentProof, ...]
    agreement: float | None
    images: int
    notes: tuple[str, ...]


def export(
    model: "QuantizedModel",
    out: str | Path,
    images_NCHW: torch.Tensor,
    *,
    target: str,
    force: bool = False,
    events: Events | None = None,
) -> Exported:
    """Write ``model`` for ``target`` as an ONNX file and prove on images that it computes what the simulation does.

    Raises ExportError before any work for what has no lowering or a missing runtime, and, unless ``force``, instead
    of writing a file that fails its proof.
    """
    profile, path = profile_of(target), Path(out)
    if path.suffix != ".onnx":
        raise ExportError(f"--out {path}: the file is ONNX for every target; name one that ends in .onnx")
    refused = refusals(model.graph, model.weights, profile)
    if refused:
        raise ExportError(f"{len(refused)} sites cannot be exported to {target}, the first: {refused[0]}")
    if profile.runtime:
        require(profile.runtime)
    content = build(model.graph, model.weights, images_NCHW[:2], properties(model, target), profile.signed)
    promised, notes = promises(model.graph, model.weights, profile)
    notes += saturation(model.weights) if profile.runtime else (profile.note,)
    result = Exported(path, target, len(content), promised, None, (), None, len(images_NCHW), notes)
    if profile.runtime:
        result = _proven(result, model, content, images_NCHW, SESSIONS[profile.runtime], events or Events())
        failed = failures(result)
        if failed and not force:
            raise ExportError(f"{path} was not written: {'; '.join(failed)}; --force writes it all the same")
        result = replace(result, notes=(*failed, *result.notes))
    write_files(path.parent, {path.name: content})
    return result


def build(
    graph: Graph,
    weights: Mapping[str, Quantizer],
    example_BCHW: torch.Tensor,
    metadata: Mapping[str, str],
    signed: bool = False,
) -> bytes:
    """Return the checked ONNX file of a student graph; raise ExportError where a site has no lowering."""
    lowered = lower(graph, weights, signed)
    model = to_onnx(lowered.module, example_BCHW, lowered.weight_codes, tensor_names(graph))
    model.metadata_props.update(metadata)
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX, please report it: {error}") from error
    content: bytes = proto.SerializeToString()
    return content


def promises(graph: Graph, weights: Mapping[str, Quantizer], profile: Profile) -> tuple[int, tuple[str, ...]]:
    """Return how many products must run in integer kernels, and what is worth knowing about the others."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    carried = {
        consumer
        for name, quantizer in graph.quantizers.items()
        if isinstance(quantizer, Quantizer) and quantizer.has_integer_values
        for consumer in graph.sites[name].consumers
    }
    linears = [
        (name, quantizer)
        for name, quantizer in weights.items()
        if all(is_op(nodes[c], LINEAR) and c in carried for c in graph.sites[name].consumers)
    ]
    uneven = [name for name, quantizer in linears if not quantizer.format.symmetric]
    if profile.name == "openvino" and uneven:
        note = f"{len(uneven)} linears have weights with zero points, which OpenVINO multiplies in floating point"
        return len(linears) - len(uneven), (f"{note}; quantize with --target openvino",)
    return len(linears), ()


def saturation(weights: Mapping[str, Quantizer]) -> tuple[str, ...]:
    """Warn where this CPU adds pairs of 8-bit products in 16 bits, which overflows with 8-bit weights."""
    vnni: Callable[[], bool] = getattr(torch.cpu, "_is_vnni_supported", lambda: True)
    wide = sum(quantizer.format.bits == 8 for quantizer in weights.values())
    if not wide or vnni() or platform.machine() not in ("x86_64", "AMD64"):
        return ()
    return (f"this CPU has no VNNI, so {wide} layers with 8-bit weights can saturate here; 7 bits (w7a8) cannot",)


def failures(result: Exported) -> list[str]:
    """Return what of a proof is out of bounds."""
    lines: list[str] = []
    worst = max(result.segments, key=lambda proof: proof.error)
    flips = max(result.segments, key=lambda proof: proof.flipped)
    if worst.error > ERROR:
        lines.append(f"segment '{worst.name}' is {worst.error:.2g} off (bound {ERROR:g})")
    if flips.flipped > FLIPPED:
        lines.append(f"{100 * flips.flipped:.2g} % of the codes in segment '{flips.name}' differ ({100 * FLIPPED:g} %)")
    if result.integer_products is not None and result.integer_products < result.promised:
        lines.append(f"{result.integer_products} of {result.promised} promised products run in integer kernels")
    return lines


def properties(model: "QuantizedModel", target: str) -> dict[str, str]:
    """Return what the file says about itself: where it is from, and the preprocessing of its input."""
    config = model.config
    return {
        "vitq.target": target,
        "vitq.bits": config.bits,
        "vitq.model": str(config.source.get("name", "model")),
        "vitq.recipe": str(config.recipe.get("name", "recipe")),
        "vitq.preprocessing": json.dumps(config.preprocessing),
    }


def _proven(
    result: Exported,
    model: "QuantizedModel",
    content: bytes,
    images_NCHW: torch.Tensor,
    session: Callable[..., Session],
    events: Events,
) -> Exported:
    whole = session(content)
    segments = prove(content, model.graph, images_NCHW, session, events)
    simulated = torch.cat([model(x).argmax(-1) for x in images_NCHW.split(32)])
    got = torch.cat([whole(x)[0].argmax(-1) for x in images_NCHW.split(32)])
    agreement = 100 * float((simulated == got).float().mean())
    return replace(result, integer_products=whole.integer_products(), segments=segments, agreement=agreement)

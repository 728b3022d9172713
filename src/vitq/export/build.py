"""From a student graph to the bytes of a checked ONNX file."""

import json
from collections.abc import Mapping

import onnx
import onnx_ir as ir
import torch

from vitq.artifact.artifact import Artifact
from vitq.errors import ExportError
from vitq.export.emit import to_onnx
from vitq.export.lower import lower
from vitq.export.saturation import NONE, Overflow
from vitq.export.targets import NOT_RUN, OPSET, PROFILES, Carrier, Cpu
from vitq.export.verify.segments import tensor_names
from vitq.graph import Graph
from vitq.quantizers import Quantizer


def build(
    graph: Graph,
    weights: Mapping[str, Quantizer],
    example_BCHW: torch.Tensor,
    metadata: Mapping[str, str],
    carrier: Carrier = Carrier.UINT8,
    opset: int = OPSET,
    overflow: Overflow = NONE,
) -> bytes:
    """Return the checked ONNX file of a student graph; raise ExportError where a site has no lowering."""
    lowered = lower(graph, weights, carrier, overflow)
    model = to_onnx(lowered.module, example_BCHW, lowered.weight_codes, tensor_names(graph), opset, lowered.folding)
    model.metadata_props.update(metadata)
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX, please report it: {error}") from error
    del proto.graph.value_info[:]  # with these shapes ONNX Runtime is slower (docs/research-notes.md)
    content: bytes = proto.SerializeToString()
    return content


def properties(artifact: Artifact, target: str, cpu: Cpu | None = None) -> dict[str, str]:
    """Return what the file says about itself: where it is from, the preprocessing of its input, what it is for.

    ``cpu`` are the CPUs that it is for, None where it is for none or was not run.
    """
    config, profile = artifact.config, PROFILES.get(target)
    proof = {"vitq.proof": NOT_RUN} if profile and profile.runtime is None else {}
    return {
        **proof,
        **({} if cpu is None else {"vitq.cpu": str(cpu)}),
        "vitq.target": target,
        "vitq.bits": config.bits,
        "vitq.model": str(config.source.get("name", "model")),
        "vitq.recipe": str(config.recipe.get("name", "recipe")),
        "vitq.preprocessing": json.dumps(config.preprocessing, sort_keys=True),
    }

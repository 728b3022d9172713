"""OpenVINO's own files: a model as a pair of graph (.xml) and weights (.bin), as it is read back from them."""

import tempfile
from pathlib import Path
from typing import Any

from vitq.export.runtimes import Content, require

Pair = tuple[bytes, bytes]
"""The contents of the .xml file and of the .bin file beside it."""


def to_ir(content: bytes) -> Pair:
    """Return an ONNX file as OpenVINO's pair: 4-bit weights stay at half a byte, tensors keep their names."""
    return saved(require("openvino").Core().read_model(content))


def named(content: Content, path: Path) -> dict[str, bytes]:
    """Return each file by its name; the graph comes last, so that where it is the weights are too."""
    if isinstance(content, bytes):
        return {path.name: content}
    graph, weights = content
    return {path.with_suffix(".bin").name: weights, path.name: graph}


def saved(model: Any) -> Pair:
    """Return the files of an ``openvino.Model``; floating-point numbers keep their 32 bits, as the proof wants them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        require("openvino").save_model(model, str(path), compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()

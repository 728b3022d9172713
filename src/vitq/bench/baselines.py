"""Baselines: the INT8 models that runtimes make of the same floating-point file on their own."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vitq.export.emit import INPUT
from vitq.export.openvino_ir import Pair, saved
from vitq.export.runtimes import require


def onnxruntime_static(content: bytes, images_NCHW: torch.Tensor) -> bytes:
    """Return ONNX Runtime's static INT8 quantization of ``content``: Q/DQ, per channel, calibrated on the images."""
    own = require("onnxruntime.quantization")
    prepare = require("onnxruntime.quantization.shape_inference").quant_pre_process

    class Reader(own.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.remaining: Iterator[torch.Tensor] = iter(images_NCHW.split(1))

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.remaining, None)
            return None if x is None else {INPUT: x.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        source, ready, result = (Path(folder) / name for name in ("source.onnx", "ready.onnx", "result.onnx"))
        source.write_bytes(content)
        prepare(str(source), str(ready), skip_symbolic_shape=True)
        own.quantize_static(
            str(ready),
            str(result),
            Reader(),
            quant_format=own.QuantFormat.QDQ,
            per_channel=True,
            activation_type=own.QuantType.QUInt8,
            weight_type=own.QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        return result.read_bytes()


def nncf_static(content: bytes, images_NCHW: torch.Tensor) -> Pair | None:
    """Return NNCF's INT8 quantization of ``content`` as OpenVINO's pair of files; None where NNCF is not installed."""
    if find_spec("nncf") is None:
        return None
    with redirect_stdout(sys.stderr):  # it reports its progress on standard output
        nncf, ov = require("nncf"), require("openvino")
        data = nncf.Dataset([x.numpy() for x in images_NCHW.split(1)])
        transformer = nncf.ModelType.TRANSFORMER
        model = nncf.quantize(ov.Core().read_model(content), data, model_type=transformer, subset_size=len(images_NCHW))
    return saved(model)

"""Runtimes: run an ONNX file, and tell which of its products run in integer kernels."""

import importlib
import tempfile
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch

from vitq.errors import ExportError

INTEGER_OPS = ("MatMulIntegerToFloat", "QGemm", "QLinearMatMul", "MatMulInteger")
INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger")

Content = bytes | tuple[bytes, bytes]
"""A model file: ONNX, or OpenVINO's own pair of graph and weights."""


def size_of(content: Content) -> int:
    """Return the size on disk in bytes."""
    return sum(map(len, content)) if isinstance(content, tuple) else len(content)


Inputs = torch.Tensor | Mapping[str, torch.Tensor]
"""The images, or tensors by name."""


class Session(Protocol):
    """A compiled model."""

    def __call__(self, inputs: Inputs) -> list[torch.Tensor]:
        """Return every output."""

    def integer_products(self) -> int:
        """Return how many matrix products run in an integer kernel."""

    def integer_convolutions(self) -> int:
        """Return how many convolutions do."""


class OnnxRuntime:
    """A session of ONNX Runtime on the CPU."""

    def __init__(self, content: Content, threads: int = 0) -> None:
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # else idle threads slow the next session
        self._content, self._threads = content, threads
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def __call__(self, inputs: Inputs) -> list[torch.Tensor]:
        """Return every output."""
        return [torch.from_numpy(y) for y in self.session.run(None, _arrays(inputs, self.name))]

    def integer_products(self) -> int:
        """Count integer kernels in the graph as ONNX Runtime has optimized it."""
        return sum(kind in INTEGER_OPS for kind in self._operators)

    def integer_convolutions(self) -> int:
        """Count them there: those whose result is quantized at once, behind a ReLU at most."""
        return sum(kind in INTEGER_CONVOLUTIONS for kind in self._operators)

    @cached_property
    def _operators(self) -> list[str]:
        """The kinds of the operators in the graph as it is optimized."""
        ort = require("onnxruntime")
        with tempfile.TemporaryDirectory() as folder:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = 1  # it will not run
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            ort.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
            return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


class OpenVino:
    """A model compiled by OpenVINO for the CPU; ``bfloat16`` lets it use that where it likes."""

    def __init__(self, content: Content, threads: int = 0, bfloat16: bool = False) -> None:
        ov = require("openvino")
        core = ov.Core()
        graph, weights = content if isinstance(content, tuple) else (content, None)
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        held = None if weights is None else ov.Tensor(np.frombuffer(weights, np.uint8))
        model = core.read_model(graph) if held is None else core.read_model(graph, held)
        self.model = core.compile_model(model, "CPU", options)

    def __call__(self, inputs: Inputs) -> list[torch.Tensor]:
        """Return every output."""
        result = self.model(_arrays(inputs, self.model.inputs[0].get_any_name()))
        return [torch.from_numpy(np.array(result[port])) for port in self.model.outputs]

    def integer_products(self) -> int:
        """Count matrix products whose kernel is an int8 one."""
        return self._int8(("FullyConnected", "MatMul"))

    def integer_convolutions(self) -> int:
        """Count convolutions, in groups too, whose kernel is one."""
        return self._int8(("Convolution", "GroupConvolution", "Deconvolution"))

    def _int8(self, kinds: tuple[str, ...]) -> int:
        """Count operations of these kinds whose kernel is an int8 one."""
        count = 0
        for node in self.model.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = info["layerType"].astype(str) if "layerType" in info else ""
            kernel = info["primitiveType"].astype(str) if "primitiveType" in info else ""
            count += kind in kinds and kernel.lower().endswith("i8")
        return count


SESSIONS: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def compile_content(runtime: str, content: Content, threads: int = 0, bfloat16: bool = False) -> Session:
    """Compile ``content`` for the CPU; ``bfloat16`` is OpenVINO's to use and changes nothing in ONNX Runtime."""
    if runtime == "openvino":
        return OpenVino(content, threads, bfloat16)
    return OnnxRuntime(content, threads)


def _arrays(inputs: Inputs, name: str) -> dict[str, np.ndarray[Any, Any]]:
    named = {name: inputs} if isinstance(inputs, torch.Tensor) else inputs
    return {key: np.ascontiguousarray(tensor.numpy()) for key, tensor in named.items()}


def require(package: str) -> Any:
    """Import a runtime; ExportError says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(f"{package} is not installed; pip install 'vitq[export]'") from error


def runtime_version(package: str) -> str | None:
    """Return the installed version of a runtime, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The int8 matrix product's ceiling on this machine: the best rate that any of the kernels here reaches."""

import time
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from vitq.export.runtimes import SESSIONS, compile_content

SIZES = (512, 1024, 2048)
DEPTH = 8


def chain(size: int) -> bytes:
    """Return an ONNX file of products of square int8 matrices, each quantized for the next one."""
    weights = np.random.default_rng(0).integers(-127, 128, (DEPTH, size, size), dtype=np.int8)
    constants = {"scale": np.float32(0.02), "zero": np.uint8(128), "weight_scale": np.float32(0.001)}
    constants |= {f"w{layer}": weights[layer] for layer in range(DEPTH)}
    nodes = []
    for layer in range(DEPTH):
        nodes += [
            helper.make_node("DequantizeLinear", [f"x{layer}", "scale", "zero"], [f"values{layer}"]),
            helper.make_node("DequantizeLinear", [f"w{layer}", "weight_scale"], [f"weights{layer}"]),
            helper.make_node("MatMul", [f"values{layer}", f"weights{layer}"], [f"product{layer}"]),
            helper.make_node("QuantizeLinear", [f"product{layer}", "scale", "zero"], [f"x{layer + 1}"]),
        ]
    ends = [helper.make_tensor_value_info(f"x{n}", TensorProto.UINT8, [size, size]) for n in (0, DEPTH)]
    initializers = [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def fastest(call: Callable[[], object], rounds: int = 15) -> float:
    """Return the shortest time of a call in seconds; the first one warms up."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def ceiling(threads: int) -> float:
    """Return the best rate over PyTorch's and both runtimes' int8 kernels and ``SIZES``, in 1e9 operations a second."""
    torch.set_num_threads(threads)
    rates = []
    for size in SIZES:
        operations = 2e-9 * size**3
        a, b = (torch.randint(-128, 127, (size, size), dtype=torch.int8) for _ in range(2))
        rates.append(operations / fastest(lambda a=a, b=b: torch._int_mm(a, b)))
        codes = torch.randint(0, 256, (size, size), dtype=torch.uint8)
        for runtime in SESSIONS:
            session = compile_content(runtime, chain(size), threads)
            rates.append(DEPTH * operations / fastest(lambda session=session, codes=codes: session(codes)))
    return max(rates)


if __name__ == "__main__":
    print(f"{ceiling(1):.0f} GOPS, one thread")

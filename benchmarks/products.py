"""What 8-bit weights cost and how exact they are on this CPU: one product as int8, uint8, 7 bits and float32.

python benchmarks/products.py        prints the rows of "8-bit weights" in deploy.md, as Markdown
"""

import argparse
import statistics
import time

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from vitq.export.runtimes import SESSIONS, Session, compile_content

TOKENS, SIZES, BATCHES = 197, ((192, 192), (192, 768), (768, 192)), (1, 16)
ZERO, SPREAD = 114, 40.0
"""Zero point of the activations, and standard deviation of all codes."""

KINDS = {"int8": (np.int8, 0, 127), "uint8, zero point 128": (np.uint8, 128, 127), "int8 of 7 bits": (np.int8, 0, 63)}
"""Type of the weights' codes, their zero point, and their largest distance from it."""


def codes(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return normal whole numbers around zero."""
    return np.round(np.random.default_rng(seed).normal(0, SPREAD, shape))


def product(size: tuple[int, int], kind: str) -> tuple[bytes, np.ndarray]:
    """Return the file of one product of activations and weights, and the weights' values w_IO."""
    inputs, outputs = size
    scale_O = np.random.default_rng(1).uniform(0.001, 0.003, outputs).astype(np.float32)
    held: dict[str, np.ndarray] = {"scale": np.float32(0.02), "zero": np.uint8(ZERO), "scale_O": scale_O}
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"])]
    nodes += [helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["rounded"])]
    if kind == "float32":
        held["weight"] = (codes(size, 0).clip(-127, 127) * scale_O).astype(np.float32)
        nodes, entry, values = [], "x", held["weight"]
        held = {"weight": values}
    else:
        dtype, middle, most = KINDS[kind]
        whole = codes(size, 0).clip(-most, most)
        held |= {"w_IO": (whole + middle).astype(dtype), "zero_O": np.full(outputs, middle, dtype)}
        nodes += [helper.make_node("DequantizeLinear", ["w_IO", "scale_O", "zero_O"], ["weight"], axis=1)]
        entry, values = "rounded", whole * scale_O
    nodes += [helper.make_node("MatMul", [entry, "weight"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", TOKENS, width])
        for name, width in (("x", inputs), ("y", outputs))
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString(), values


def images(batch: int, inputs: int) -> np.ndarray:
    """Return activations that are whole steps, so that only the product can be wrong."""
    whole = (codes((batch, TOKENS, inputs), 2) + ZERO).clip(0, 255)
    return ((whole - ZERO) * np.float32(0.02)).astype(np.float32)


def medians(sessions: dict[str, Session], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return each session's median process time, the sessions taking turns."""
    times: dict[str, list[float]] = {kind: [] for kind in sessions}
    for _ in range(rounds + 1):
        for kind, session in sessions.items():
            began = time.process_time()
            session(x)
            times[kind].append(time.process_time() - began)
    return {kind: statistics.median(own[1:]) for kind, own in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    heads = " | ".join(f"{i} x {o}" for i, o in SIZES)
    print(f"| runtime | weights | integer kernel | relative error | {heads} |\n|---|---|---|---|{'---|' * len(SIZES)}")
    for runtime in SESSIONS:
        rows: dict[str, list[str]] = {kind: [] for kind in (*KINDS, "float32")}
        errors: dict[str, list[float]] = {kind: [] for kind in rows}
        integer: dict[str, bool] = {}
        for size in SIZES:
            files = {kind: product(size, kind) for kind in rows}
            sessions = {kind: compile_content(runtime, content, 1) for kind, (content, _) in files.items()}
            x = {batch: torch.from_numpy(images(batch, size[0])) for batch in BATCHES}
            for kind, (_, values) in files.items():
                exact = x[1].double().numpy() @ values.astype(np.float64)
                got = sessions[kind](x[1])[0].double().numpy()
                errors[kind].append(float(np.linalg.norm(got - exact) / np.linalg.norm(exact)))
                integer[kind] = sessions[kind].integer_products() > 0
            times = [medians(sessions, x[batch], rounds) for batch in BATCHES]
            for kind in rows:
                rows[kind].append(" / ".join(f"{own[kind] / own['int8']:.2f}" for own in times))
        for kind, ratios in rows.items():
            kernel = "yes" if integer[kind] else "no"
            print(f"| {runtime} | {kind} | {kernel} | {max(errors[kind]):.1e} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()

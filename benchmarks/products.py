"""What 8-bit weights cost and how exact they are on this CPU: one product as int8, uint8, 7 bits and float32.

OMP_NUM_THREADS=1 python benchmarks/products.py run --rounds 41
python benchmarks/products.py table
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from command import append, rows, run_or_table
from grid import grid, machine_name
from onnx import TensorProto, helper, numpy_helper

from vitq.export.runtimes import SESSIONS, Session, compile_content

RESULTS = Path(__file__).parent / "results" / "products.jsonl"
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


def run(chosen: argparse.Namespace) -> None:
    """Measure every kind of weights in both runtimes."""
    for runtime in SESSIONS:
        kinds = (*KINDS, "float32")
        errors: dict[str, list[float]] = {kind: [] for kind in kinds}
        ratios: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in kinds}
        integer: dict[str, bool] = {}
        for size in SIZES:
            files = {kind: product(size, kind) for kind in kinds}
            sessions = {kind: compile_content(runtime, content, 1) for kind, (content, _) in files.items()}
            x = {batch: torch.from_numpy(images(batch, size[0])) for batch in BATCHES}
            for kind, (_, values) in files.items():
                exact = x[1].double().numpy() @ values.astype(np.float64)
                got = sessions[kind](x[1])[0].double().numpy()
                errors[kind].append(float(np.linalg.norm(got - exact) / np.linalg.norm(exact)))
                integer[kind] = sessions[kind].integer_products() > 0
            times = {str(batch): medians(sessions, x[batch], chosen.rounds) for batch in BATCHES}
            for kind in kinds:
                ratios[kind][" x ".join(map(str, size))] = {b: own[kind] / own["int8"] for b, own in times.items()}
        for kind in kinds:
            row = {"runtime": runtime, "weights": kind, "integer": integer[kind], "error": max(errors[kind])}
            row |= {"ratios": ratios[kind], "threads": 1, "rounds": chosen.rounds, "seed": 0}
            append(chosen.results, row)


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: errors, and times as a share of int8's at each batch size."""
    found = rows(chosen.results)
    lines = []
    for row in found:
        shares = [" / ".join(f"{x:.2f}" for x in by_batch.values()) for by_batch in row["ratios"].values()]
        kernel = "yes" if row["integer"] else "no"
        lines.append(
            (machine_name(row["machine"]), row["runtime"], row["weights"], kernel, f"{row['error']:.0e}", *shares)
        )
    heads = ("machine", "runtime", "weights", "integer kernel", "relative error", *found[0]["ratios"])
    print(grid(heads, lines))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--rounds", type=int, default=15)


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS)

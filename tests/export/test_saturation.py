"""Files are right on CPUs that add pairs of products in 16 bits, whatever CPU runs these tests."""

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402

import vitq  # noqa: E402
from vitq.bits import Bits  # noqa: E402
from vitq.errors import ExportError  # noqa: E402
from vitq.export import saturation  # noqa: E402
from vitq.export.build import build  # noqa: E402
from vitq.export.saturation import NONE, cause, overflowing  # noqa: E402
from vitq.export.targets import PROFILES, Cpu, bits_for, cpu_of  # noqa: E402

ORT, OPENVINO = PROFILES["onnxruntime"], PROFILES["openvino"]
WHOLE = {"target": "onnxruntime", "scope": "paper"}
WIDE = {"target": "onnxruntime", "cpu": "vnni"}
"""Weights keep 8 bits beside 8-bit activations."""


def signed_products(content: bytes) -> dict[str, tuple[int, int]]:
    """Return the largest weight and activation of every product of int8 weights, read from the file alone."""
    graph = onnx.load_from_string(content).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    found: dict[str, tuple[int, int]] = {}

    def codes(name: str) -> Any:
        """Follow a weight back through the cast of its 4-bit codes."""
        return tensors[name] if name in tensors else tensors[maker[name].input[0]].astype("int8")

    def source(name: str) -> Any:
        """Return what computes a side, behind the dimension that a product of one row for each image gets."""
        node = maker.get(name)
        return source(node.input[0]) if node is not None and node.op_type == "Unsqueeze" else node

    for node in (node for node in graph.node if node.op_type in ("MatMul", "Conv")):
        sides = [source(name) for name in node.input[:2]]
        if any(side is None or side.op_type != "DequantizeLinear" for side in sides):
            continue
        quantize, clip = maker[sides[0].input[0]], maker[maker[sides[0].input[0]].input[0]]
        if sides[1].input[0] in maker and maker[sides[1].input[0]].op_type == "QuantizeLinear":
            continue  # two activations: uint8 by uint8
        w = codes(sides[1].input[0])
        scale, zero = tensors[quantize.input[1]], tensors[quantize.input[2]]
        largest = round(float(tensors[clip.input[2]] / scale)) + int(zero)
        if w.dtype == "int8":
            found[node.name] = int(abs(w.astype(int)).max()), largest
    return found


@pytest.mark.parametrize(
    ("family", "bits"), [("plain", "w8a8"), ("plain", "w8a7"), ("attention", "w7a8"), ("plain", "w4a8")]
)
def test_no_pair_of_products_of_int8_weights_exceeds_16_bits(
    quantized: Callable[..., Any], images: torch.Tensor, family: str, bits: str
) -> None:
    model = quantized(family, bits, **WIDE)
    overflow = overflowing(model.graph, model.weights, ORT)
    assert bool(overflow) == (bits == "w8a8"), "only these lose a kernel"
    pairs = signed_products(build(model.graph, model.weights, images[:2], {}, overflow=overflow))
    assert len(pairs) == (0 if bits == "w8a8" else 5 if family == "attention" else 3)
    assert all(2 * w * x <= 2**15 - 1 for w, x in pairs.values())


def test_eight_bit_weights_of_onnxruntime_are_uint8_and_stay_in_integer_kernels(exported: Callable[..., Any]) -> None:
    result, path = exported("vit", "w8a8", **WIDE, export={"target": "onnxruntime"})
    assert result.cpu is Cpu.ANY and result.integer_products == result.promised == 7
    (note,) = result.notes
    assert "5 linears have uint8 weights" in note and "--target onnxruntime" in note and "--cpu vnni" in note
    graph = onnx.load(path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [node.input for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    linears = [(tensors[codes], tensors[zero]) for codes, _, zero in weights if tensors[codes].ndim == 2]
    assert len(linears) == 7
    assert all(codes.dtype == zero.dtype == "uint8" and (zero == 128).all() for codes, zero in linears)


def test_openvino_multiplies_eight_bit_weights_in_floating_point_and_says_what_to_do(
    exported: Callable[..., Any],
) -> None:
    result, _ = exported("vit", "w8a8", **WIDE, export={"target": "openvino"})
    assert result.promised == result.integer_products == 0 and result.cpu is Cpu.ANY
    assert max(proof.error for proof in result.segments) < 1e-5
    (note,) = result.notes
    assert "5 linears" in note and "--target openvino" in note and "--cpu vnni" in note


def test_openvino_multiplies_wide_attention_in_floating_point(
    quantized: Callable[..., Any], exported: Callable[..., Any]
) -> None:
    """It would take a second operand of zero point 128 as int8."""
    model = quantized("attention", "w8a8", **WHOLE)
    overflow = overflowing(model.graph, model.weights, OPENVINO)
    assert {name.rpartition("/")[2] for name in overflow.activations} == {"key", "value"}
    assert not overflowing(model.graph, model.weights, ORT).activations, "there it is uint8 by uint8"
    result, _ = exported("attention", "w8a8", **WHOLE, export={"target": "openvino"})
    assert max(proof.error for proof in result.segments) < 1e-5
    assert max(proof.flipped for proof in result.segments) < 1e-3


def test_targets_that_run_elsewhere_keep_int8(quantized: Callable[..., Any]) -> None:
    model = quantized("vit", "w8a8", target="tensorrt")
    assert overflowing(model.graph, model.weights, PROFILES["tensorrt"]) == NONE
    assert overflowing(model.graph, model.weights, ORT)


@pytest.mark.parametrize(
    ("target", "asked", "taken"),
    [
        ("openvino", "w8a8", "w7a8"),
        ("onnxruntime", "w8a8", "w7a8"),
        ("openvino", "w8a7", "w8a7"),
        ("openvino", "w8a4", "w8a4"),
        ("openvino", "w4a8", "w4a8"),
        ("openvino", "w8a32", "w8a32"),
        ("openvino", "w32a8", "w32a8"),
        ("tensorrt", "w8a8", "w8a8"),
    ],
)
def test_runtimes_are_calibrated_with_weights_that_their_kernels_can_add(target: str, asked: str, taken: str) -> None:
    assert bits_for(Bits.parse(asked), PROFILES[target]) == Bits.parse(taken)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_bit_less_than_asked_is_said_and_can_be_kept(quantized: Callable[..., Any], target: str) -> None:
    model = quantized("vit", "w8a8", target=target)
    assert model.config.bits == "w7a8"
    (warning,) = [text for name, text in model.metrics.warnings if name == "bits-for-target"]
    assert f"w8a8 is w7a8 for {target}" in warning and "--cpu vnni" in warning
    kept = quantized("vit", "w8a8", target=target, cpu="vnni")
    assert kept.config.bits == "w8a8" and not [name for name, _ in kept.metrics.warnings if name == "bits-for-target"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "openvino", "cpu": "avx"}, "cpu 'avx' does not exist"),
        ({"target": "tensorrt", "cpu": "vnni"}, "runs on no x86 CPU"),
        ({"cpu": "vnni"}, "give target too"),
        ({"cpu": "vnni", "within": 1.0}, "give target too"),
    ],
)
def test_a_cpu_that_says_nothing_is_refused_before_any_work(
    images: torch.Tensor, options: dict[str, Any], text: str
) -> None:
    recipe = {} if "within" in options else {"recipe": "rtn"}
    with pytest.raises(ExportError, match=text):
        vitq.quantize("no-such-model", images, **recipe, **options)


def test_a_file_for_vnni_is_refused_with_the_cause_before_any_work(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> None:
        raise AssertionError("the graph was lowered before the refusal")

    monkeypatch.setattr(saturation, "saturates", lambda runtime: True)
    monkeypatch.setattr(importlib.import_module("vitq.export.export"), "build", work)
    model = quantized("vit", "w8a8", **WIDE)
    for target in ("onnxruntime", "openvino"):
        with pytest.raises(ExportError, match=r"no VNNI.* 5 products .*leave --cpu out.*w7a8.*--force"):
            model.export(tmp_path / "m.onnx", images, target=target, cpu="vnni")
    assert not list(tmp_path.iterdir())


def test_a_cause_is_told_only_where_it_is_one(quantized: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized("vit", "w8a8", **WIDE)
    wide = overflowing(model.graph, model.weights, ORT)
    monkeypatch.setattr(saturation, "saturates", lambda runtime: True)
    assert cause(wide, ORT, Cpu.VNNI) and not cause(wide, ORT, Cpu.ANY) and not cause(NONE, ORT, Cpu.VNNI)
    monkeypatch.setattr(saturation, "saturates", lambda runtime: False)
    assert not cause(wide, ORT, Cpu.VNNI)


def test_a_file_for_vnni_keeps_int8_and_says_so(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By force, since the proof passes on some CPUs only; the file is the same on all."""
    monkeypatch.setattr(saturation, "saturates", lambda runtime: True)
    model = quantized("plain", "w8a8", **WIDE)
    result = model.export(tmp_path / "m.onnx", images, cpu="vnni", force=True)
    assert result.cpu is Cpu.VNNI and result.integer_products == result.promised == 3
    assert any("no VNNI" in note for note in result.notes)
    assert len(signed_products((tmp_path / "m.onnx").read_bytes())) == 3
    assert {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}["vitq.cpu"] == "vnni"


def test_a_file_that_cannot_saturate_is_for_every_cpu_whatever_was_asked(exported: Callable[..., Any]) -> None:
    result, path = exported("vit", "w4a4", target="openvino", export={"target": "openvino", "cpu": "vnni"})
    same, other = exported("vit", "w4a4", target="openvino", export={"target": "openvino"})
    assert result.cpu is same.cpu is Cpu.ANY and path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("cpu", ["vni", "", None, 3])
def test_unknown_cpus_are_refused(cpu: Any) -> None:
    with pytest.raises(ExportError, match=r"does not exist.*vnni"):
        cpu_of(cpu, ORT)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runtime_itself_tells_whether_it_saturates(runtime: str) -> None:
    """Both answers are right on some CPU; with VNNI, or on another than x86, only one is."""
    pytest.importorskip(runtime)
    if platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_vnni_supported():
        assert not saturation.saturates(runtime)
    else:
        assert isinstance(saturation.saturates(runtime), bool)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's switch is of x86 CPUs")
def test_files_of_openvino_are_right_where_it_is_held_to_avx2(
    exported: Callable[..., Any], quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path
) -> None:
    """oneDNN's switch shows this on newer CPUs too. ONNX Runtime's MLAS asks the CPU itself and has no such switch.

    There the file itself is read instead (``signed_products``), and the tests of exports run on what CPU there is.
    """
    pytest.importorskip("openvino")
    _, narrow = exported("vit", "w8a8", target="openvino", export={"target": "openvino"})
    _, wide = exported("vit", "w8a8", **WIDE, export={"target": "openvino"})
    torch.save(images, tmp_path / "images.pt")
    program = (
        "import sys, torch\n"
        "from vitq.export.runtimes import OpenVino\n"
        "from vitq.export.saturation import saturates\n"
        "assert saturates('openvino'), 'not held to AVX2'\n"
        "x = torch.load(sys.argv[1])\n"
        "torch.save([OpenVino(open(path, 'rb').read())(x)[0] for path in sys.argv[2:]], sys.argv[1])\n"
    )
    given = [str(tmp_path / "images.pt"), str(narrow), str(wide)]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, *given], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for logits, how in zip(torch.load(given[0]), ({"target": "openvino"}, WIDE), strict=True):
        expected = quantized("vit", "w8a8", **how)(images)
        torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02)


def test_a_model_of_floating_point_activations_cannot_overflow(quantized: Callable[..., vitq.QuantizedModel]) -> None:
    model = quantized("vit", "w8a32", target="onnxruntime")
    assert overflowing(model.graph, model.weights, ORT) == NONE

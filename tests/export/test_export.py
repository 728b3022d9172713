"""Files of tiny models: what they compute, which kernels run them, and what is refused."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

import vitq  # noqa: E402
from vitq.errors import ExportError  # noqa: E402
from vitq.export.build import build, properties  # noqa: E402
from vitq.export.export import export  # noqa: E402
from vitq.export.targets import OPSETS, PROFILES, Cpu  # noqa: E402
from vitq.export.verify.integer_products import expected_integer_products  # noqa: E402

RUNTIMES = ("onnxruntime", "openvino")
PROBABILITIES = "insert.probabilities.format"


@pytest.mark.parametrize(
    ("bits", "target", "model"),  # 6 and 7 are stored like 5; both are written below, 7 as OpenVINO's 8
    [
        (2, "onnxruntime", "plain"),
        (3, "openvino", "plain"),
        (4, "openvino", "vit"),
        (5, "onnxruntime", "plain"),
        (8, "onnxruntime", "vit"),
    ],
)
def test_every_bit_width_runs_in_integer_kernels_and_is_proven(
    exported: Callable[..., Any], bits: int, target: str, model: str
) -> None:
    result, path = exported(model, f"w{bits}a{bits}", target=target, export={"target": target})
    assert result.integer_products == result.promised >= (7 if model == "vit" else 3)
    assert max(proof.error for proof in result.segments) < 1e-5
    assert max(proof.flipped for proof in result.segments) < 1e-3
    assert path.stat().st_size == result.size_bytes


@pytest.mark.parametrize(("model", "bits"), [("attention", "w8a8")])  # windows: those of a recipe, below
def test_onnxruntime_multiplies_attention_in_integer_kernels_where_asked(
    quantized: Callable[..., Any], exported: Callable[..., Any], model: str, bits: str
) -> None:
    linears = quantized(model, bits, target="onnxruntime")
    promised, _ = expected_integer_products(linears.graph, linears.weights, PROFILES["onnxruntime"])
    result, _ = exported(model, bits, target="onnxruntime", scope="paper", export={"target": "onnxruntime"})
    whole = quantized(model, bits, target="onnxruntime", scope="paper")
    attentions = sum(name.endswith("/probabilities") for name in whole.graph.quantizers)
    assert result.integer_products == result.promised == promised + 2 * attentions
    assert max(proof.error for proof in result.segments) < 1e-5


@pytest.mark.parametrize(
    ("family", "files"),
    [
        ("swinv2", [("openvino", "m.xml")]),
        ("beit", [("onnxruntime", "m.onnx"), ("openvino", "m.onnx")]),
        ("levit", [("onnxruntime", "m.onnx")]),
    ],
)
def test_shapes_from_the_images_joined_biases_and_two_heads(
    quantized: Callable[..., Any],
    exported: Callable[..., Any],
    images: torch.Tensor,
    family: str,
    files: list[tuple[str, str]],
) -> None:
    for target, file in files:
        result, _ = exported(family, "w8a8", target="openvino", export={"target": target}, file=file)
        assert result.integer_products == result.promised > 4 and result.end.agreement == 100
    model = quantized(family, "w8a8", target="openvino")
    torch.testing.assert_close(model.integer()(images), model(images), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("probabilities", ["affine", "log2", "log2_flush", "log_sqrt2", "piecewise"])
def test_every_format_is_proven_in_the_paper_scope(
    quantized: Callable[..., Any], exported: Callable[..., Any], probabilities: str
) -> None:
    model = ("attention", "w4a4", "repq"), {"overrides": {PROBABILITIES: probabilities}}
    for target in RUNTIMES:
        result, _ = exported(*model[0], **model[1], export={"target": target})
        assert max(proof.error for proof in result.segments) < 1e-5
        assert sum(proof.sites for proof in result.segments) == len(quantized(*model[0], **model[1]).graph.quantizers)
        assert any("zero points" in note for note in result.notes) == (target == "openvino")


@pytest.mark.parametrize(
    ("family", "bits", "formats"),
    [("windows", "w3a3", {"piecewise", "log2_flush", "affine"}), ("plain", "w6a6", {"piecewise", "affine"})],
)
def test_the_formats_of_a_recipe_are_proven_in_windows_too(
    quantized: Callable[..., Any], exported: Callable[..., Any], family: str, bits: str, formats: set[str]
) -> None:
    model = quantized(family, bits, "repq")
    assert {quantizer.format.name for quantizer in model.graph.quantizers.values()} == formats
    for target in RUNTIMES:
        result, _ = exported(family, bits, "repq", export={"target": target})
        assert result.integer_products == result.promised
        assert max(proof.error for proof in result.segments) < 1e-5
        assert max(proof.flipped for proof in result.segments) < 1e-3
        assert sum(proof.sites for proof in result.segments) == len(model.graph.quantizers)


@pytest.mark.parametrize("family, parts", [("vit", 3), ("windows", 3), ("beit", 3), ("levit", 0)])
def test_queries_keys_and_values_are_products_of_their_own(
    exported: Callable[..., Any], family: str, parts: int
) -> None:
    _, path = exported(family, "w8a8", target="openvino", export={"target": "openvino"})
    graph = onnx.load(path).graph
    assert sum(re.search(r"_codes_\d+_t$", tensor.name) is not None for tensor in graph.initializer) == parts
    assert not graph.value_info


def test_weights_of_four_bits_take_half_a_byte(exported: Callable[..., Any]) -> None:
    sizes = {}
    for bits in ("w4a4", "w8a8"):
        model = onnx.load(exported("vit", bits, target="openvino", export={"target": "openvino"})[1])
        sizes[bits] = sum(len(t.raw_data) for t in model.graph.initializer if "codes" in t.name and len(t.dims) > 1)
    assert sizes["w4a4"] * 2 == sizes["w8a8"] > 1000


def test_the_batch_is_free_and_the_file_says_what_it_is(
    quantized: Callable[..., Any], exported: Callable[..., Any], images: torch.Tensor
) -> None:
    from vitq.export.runtimes import OnnxRuntime

    model = quantized("vit", "w8a8", target="onnxruntime")
    _, path = exported("vit", "w8a8", target="onnxruntime", export={"target": "onnxruntime"})
    session = OnnxRuntime(path.read_bytes())
    for batch in (1, 3, 16):
        difference = (session(images[:batch])[0] - model(images[:batch])).abs().amax(1)
        assert difference.max() < 0.02, "a code at a tie moves an image by as much"
    assert difference.median() < 1e-5
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert properties["vitq.bits"] == "w7a8" and properties["vitq.target"] == "onnxruntime"
    assert properties["vitq.cpu"] == "any"
    assert "vitq.proof" not in properties  # a file that fails its proof is not written, so nothing has to be said
    assert json.loads(properties["vitq.preprocessing"])["input_size"] == [3, 32, 32]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_possible_opset_is_written_and_proven(
    quantized: Callable[..., Any], exported: Callable[..., Any], images: torch.Tensor, opset: int
) -> None:
    from vitq.export.runtimes import OpenVino

    family = "attention" if opset == OPSETS[-1] else "plain"  # every other test of attention writes the first
    model = family, "w4a4"  # no opset before 21 has the 4-bit integers of its weights
    result, path = exported(*model, target="openvino", export={"target": "onnxruntime", "opset": opset})
    assert result.integer_products == result.promised > 2
    assert max(proof.error for proof in result.segments) < 1e-5
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {(entry.domain, entry.version) for entry in proto.opset_import} == {("", opset)}
    there = OpenVino(path.read_bytes())
    expected = quantized(*model, target="openvino")(images)
    torch.testing.assert_close(there(images)[0], expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("opset", [OPSETS[0] - 1, OPSETS[-1] + 1])
def test_another_opset_is_refused_before_the_images_are_read(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("the images were read before the refusal")

    monkeypatch.setattr("vitq.data.draw_calibration", read)
    with pytest.raises(ExportError, match=f"opset {opset} is not possible, 21 to 25 are: .*4-bit"):
        quantized("vit", "w4a4", target="openvino").export(tmp_path / "m.onnx", images, opset=opset)


@pytest.mark.parametrize(("model", "bits"), [("vit", "w8a8"), ("vit", "w4a4"), ("windows", "w8a8")])
def test_openvinos_own_files_are_proven_and_read_back_by_name(
    quantized: Callable[..., Any], exported: Callable[..., Any], images: torch.Tensor, model: str, bits: str
) -> None:
    from vitq.export.runtimes import require

    result, path = exported(model, bits, target="openvino", export={"target": "openvino"}, file="m.xml")
    source = quantized(model, bits, target="openvino")
    assert result.integer_products == result.promised > 4
    assert max(proof.error for proof in result.segments) < 1e-5
    assert max(proof.flipped for proof in result.segments) < 1e-3
    assert {file.name for file in path.parent.iterdir()} == {"m.xml", "m.bin"}
    assert result.size_bytes == sum(file.stat().st_size for file in path.parent.iterdir())
    read = require("openvino").Core().read_model(path)  # finds the weights beside it
    assert read.get_rt_info(["framework", "vitq.bits"]).astype(str) == str(source.config.bits)
    kinds = {node.get_element_type().get_type_name() for node in read.get_ops() if node.get_type_name() == "Constant"}
    assert ("i4" if bits == "w4a4" else "i8") in kinds and "f16" not in kinds
    logits = require("openvino").compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images.numpy())[0]
    torch.testing.assert_close(torch.from_numpy(logits), source(images), rtol=0.02, atol=0.02)


class TwoHeads(nn.Module):
    """As LeViT, two heads that read the same tokens; their norms differ only once they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norms = nn.Conv2d(3, 8, 8, 8), nn.ModuleList(nn.BatchNorm1d(8) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(2))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BC = self.patch(x_BCHW).flatten(2).mean(2)
        logits_BK: torch.Tensor = (self.heads[0](self.norms[0](x_BC)) + self.heads[1](self.norms[1](x_BC))) / 2
        return logits_BK


def test_a_tensor_that_openvino_merges_with_an_equal_one_is_named(images: torch.Tensor, tmp_path: Path) -> None:
    model = vitq.quantize(TwoHeads(), images, recipe="rtn", bits="w8a8", target="openvino", progress=False)
    with pytest.raises(ExportError, match=r"'site/heads.1/input' once together with an equal .*\.onnx"):
        model.export(tmp_path / "m.xml", images, target="openvino")
    assert not list(tmp_path.iterdir())


def test_the_proof_is_of_openvinos_own_files_and_a_wrong_one_is_not_written(
    quantized: Callable[..., Any],
    exported: Callable[..., Any],
    images: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vitq.export.openvino_ir import to_ir

    _, right = exported("vit", "w8a8", target="openvino", export={"target": "openvino"})
    _, path = exported("vit", "w4a4", target="openvino", export={"target": "openvino"})
    monkeypatch.setattr(sys.modules["vitq.export.export"], "build", lambda *_: right.read_bytes())
    monkeypatch.setattr(sys.modules["vitq.export.export"], "to_ir", lambda _: to_ir(path.read_bytes()))
    with pytest.raises(ExportError, match=r"codes in segment .*--force"):
        quantized("vit", "w8a8", target="openvino").export(tmp_path / "m.xml", images, target="openvino")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "recipe", "options"),
    [("plain", "rtn", {"target": "openvino"}), ("attention", "repq", {"overrides": {PROBABILITIES: "affine"}})],
)
def test_a_saved_and_loaded_model_gives_the_same_file(
    quantized: Callable[..., Any],
    exported: Callable[..., Any],
    images: torch.Tensor,
    tmp_path: Path,
    family: str,
    recipe: str,
    options: dict[str, Any],
) -> None:
    model = quantized(family, "w4a4", recipe, **options)
    loaded = vitq.load(model.save(tmp_path / "run"))
    about = properties(loaded, "onnxruntime", Cpu.ANY)
    content = exported(family, "w4a4", recipe, **options, export={"target": "onnxruntime"})[1].read_bytes()
    assert content == build(loaded.graph, loaded.weights, images[:2], about)
    assert b"pkg.torch" not in content and b".py" not in content, "no path of this machine is in the file"


@pytest.mark.parametrize("target", ["tensorrt", "coreml", "qnn"])
def test_targets_that_do_not_run_here_are_written_and_say_so(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, target: str
) -> None:
    result = quantized("plain", "w8a8", target=target).export(tmp_path / "m.onnx", images, target=target)
    assert result.end is None and any("not run" in note for note in result.notes)
    proto = onnx.load(tmp_path / "m.onnx")
    assert {p.key: p.value for p in proto.metadata_props}["vitq.proof"].startswith("not run")
    codes = {i.name: i.data_type for i in proto.graph.initializer}
    kinds = {onnx.TensorProto.DataType.Name(t) for t in codes.values()}
    assert ("UINT8" in kinds) == (target == "qnn")


def test_refusals_come_before_any_work(quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path) -> None:
    model = quantized("vit", "w4a4", "repq")
    with pytest.raises(ExportError, match="symmetric"):
        model.export(tmp_path / "m.onnx", images, target="tensorrt")
    with pytest.raises(ExportError, match="openvino"):
        model.export(tmp_path / "m.onnx", images, target="openvin")
    for_qnn = quantized("vit", "w8a8", target="qnn")
    with pytest.raises(ExportError, match="does not run here"):
        for_qnn.export(tmp_path / "m.onnx", images, target="qnn", validation=(images, torch.zeros(16).long()))
    with pytest.raises(ExportError, match=r"runs on no x86 CPU.*leave --cpu out"):
        for_qnn.export(tmp_path / "m.onnx", images, target="qnn", cpu="vnni")
    with pytest.raises(ExportError, match="cpu 'vni' does not exist; did you mean 'vnni'"):
        model.export(tmp_path / "m.onnx", images, cpu="vni")
    with pytest.raises(ExportError, match=r"ends in \.onnx for onnxruntime"):
        model.export(tmp_path / "m.xml", images)
    with pytest.raises(ExportError, match=r"ends in \.onnx or \.xml for openvino"):
        model.export(tmp_path / "m.bin", images, target="openvino")
    wide = quantized("vit", "w8a8", "repq", {"insert.post_activation.from_bits": {7: "piecewise"}})
    with pytest.raises(ExportError, match="more than 6 bits"):
        wide.export(tmp_path / "m.onnx", images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "qnn"])
def test_what_has_no_lowering_is_refused_with_its_reason(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    from vitq.export.lowerings import LOWERINGS

    def work(*_: Any) -> None:
        raise AssertionError("the graph was lowered before the refusal")

    monkeypatch.setattr(sys.modules["vitq.export.export"], "build", work)
    weights = quantized("vit", "w4a8", overrides={"insert.weight.format": "piecewise"})
    reason = r"/weight: weights of format 'piecewise' have no integer codes of one scale"
    with pytest.raises(ExportError, match=rf"{len(weights.weights)} sites cannot be exported to {target}.*{reason}"):
        weights.export(tmp_path / "m.onnx", images, target=target)
    probabilities = quantized("vit", "w4a4", "repq")
    with LOWERINGS.kept(), pytest.raises(ExportError, match=r"^1 site .*/prob.*: format 'log2_flush' has no lowering"):
        LOWERINGS.remove("log2_flush")
        probabilities.export(tmp_path / "m.onnx", images, target="onnxruntime")
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitq.export import runtimes

    model = quantized("vit", "w8a8", target="onnxruntime")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("vitq.export.targets.find_spec", lambda package: None if package == "onnxscript" else True)
    with pytest.raises(ExportError, match=r"onnxscript; pip install 'vitq\[export\]'"):
        model.export(tmp_path / "m.onnx", images)
    monkeypatch.undo()
    monkeypatch.setattr(runtimes.importlib, "import_module", missing)
    with pytest.raises(ExportError, match=r"vitq\[export\]"):
        model.export(tmp_path / "m.onnx", images)


def test_a_file_that_fails_its_proof_is_written_only_by_force(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitq.export.lowerings import LOWERINGS

    model = quantized("plain", "w8a8", target="onnxruntime")
    right = LOWERINGS["affine"]

    def wrong(quantizer: Any, parameters: Any) -> Any:
        scale, *rest = right.arguments(quantizer, parameters)
        return (scale * 1.1, *rest)

    with LOWERINGS.kept():
        LOWERINGS.remove("affine")
        LOWERINGS.add("affine", replace(right, arguments=wrong, floating=None, signed=None))
        content = build(model.graph, model.weights, images[:2], {})
    monkeypatch.setattr(sys.modules["vitq.export.export"], "build", lambda *_: content)
    with pytest.raises(ExportError, match="--force"):
        model.export(tmp_path / "m.onnx", images)
    assert not (tmp_path / "m.onnx").exists()
    result = export(model, tmp_path / "m.onnx", images, target="onnxruntime", force=True)
    assert (tmp_path / "m.onnx").exists() and any("differ" in note for note in result.notes)


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_an_operator_in_parts_is_a_broken_promise(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    from vitq.export.operators import TRANSLATIONS, op

    def gelu(x: Any, approximate: str = "none") -> Any:
        half = op.Constant(value_float=0.5)
        return op.Mul(x, op.Add(half, op.Mul(half, op.Erf(op.Mul(x, op.Constant(value_float=0.5**0.5))))))

    model = quantized("plain", "w8a8", target=target)
    monkeypatch.setitem(TRANSLATIONS, torch.ops.aten.gelu.default, gelu)
    content = build(model.graph, model.weights, images[:2], {}, PROFILES[target].carrier)
    monkeypatch.setattr(sys.modules["vitq.export.export"], "build", lambda *_: content)
    with pytest.raises(ExportError, match=r"not written: 0 of 1 Gelu operators are whole in the file;.*--force"):
        model.export(tmp_path / "m.onnx", images, target=target)
    assert not list(tmp_path.iterdir())
    assert any(
        "0 of 1 Gelu" in note for note in model.export(tmp_path / "m.onnx", images, target=target, force=True).notes
    )


@pytest.mark.parametrize("target", RUNTIMES)
def test_labels_and_the_floating_point_model_complete_the_proof(
    models: dict[str, nn.Module], quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Path, target: str
) -> None:
    model = quantized("plain", "w8a8", target=target)
    labels = models["plain"].eval()(images).argmax(-1)
    result = model.export(
        tmp_path / "m.onnx", images, target=target, validation=(images, labels), floating=models["plain"]
    )
    assert result.end.floating_top1 == 100 and 0 < result.end.floating_error < 1e-5
    assert result.end.top1 == pytest.approx(result.end.simulated_top1, abs=0.1)
    assert result.end.images == len(images)
    with pytest.raises(ExportError, match="other weights"):
        model.export(tmp_path / "n.onnx", images, target=target, floating=models["vit"])
    assert not (tmp_path / "n.onnx").exists()


def test_end_to_end_bounds_name_what_is_wrong() -> None:
    from vitq.export.verify.outputs import EndToEnd, complaints

    assert not complaints(EndToEnd(1000, 99.0, 100.0, 80.0, 80.5, 84.0, 1e-6))
    assert not complaints(EndToEnd(1000, 62.5, 68.8, 25.0, 28.0)), "a chaotic model is not held to more than its own"
    low, drop, off = complaints(EndToEnd(1000, 70.0, 99.0, 70.0, 80.0, 84.0, 0.1))
    assert "agrees" in low and "simulation's 80.0" in drop and "floating-point file" in off


def test_a_file_of_another_model_falls_under_the_bound(quantized: Callable[..., Any], images: torch.Tensor) -> None:
    from vitq.export.verify.outputs import compare, complaints

    model = quantized("vit", "w8a8", target="onnxruntime")
    labels = model(images).argmax(-1)
    end = compare(model, lambda x: [-model(x)], lambda: [(images, labels)])  # type: ignore[arg-type]
    assert end.agreement == 0 and len(complaints(end)) == 2


def test_one_output_is_compared_by_its_value_for_it_has_no_classes(images: torch.Tensor) -> None:
    from vitq.export.verify.outputs import compare, complaints

    def single(x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.flatten(1).sum(1, keepdim=True)

    def batches() -> Any:
        return ((x_BCHW, None) for x_BCHW in images.split(8))

    right = compare(single, lambda x: [1.001 * single(x)], batches)  # type: ignore[arg-type]
    assert right.agreement is None and right.self_agreement is None and right.images == 16
    assert right.relative_error == pytest.approx(1e-3, rel=1e-2) and not complaints(right)
    wrong = compare(single, lambda x: [-single(x)], batches)  # type: ignore[arg-type]
    assert wrong.relative_error == pytest.approx(2, rel=1e-2)
    assert complaints(wrong) == ["the outputs are 2 off the simulation's (bound 0.05)"]

"""Files of formats that are more than a scale and a zero point."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

import vitq  # noqa: E402

TWIN = {"insert.post_activation.format": "twin", "insert.post_norm.format": "twin_sign"}
CODEBOOK = {"insert.weight.format": "codebook"}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_twin_activations_and_codebook_weights_are_proven_and_say_what_is_floating(
    quantized: Callable[..., Any], exported: Callable[..., Any], target: str
) -> None:
    given: Any = ("plain", "w4a4", "rtn", {**TWIN, **CODEBOOK})
    result, _ = exported(*given, scope="deploy", export={"target": target})
    assert max(proof.error for proof in result.segments) < 1e-5
    assert max(proof.flipped for proof in result.segments) < 1e-3
    model = quantized(*given, scope="deploy")
    assert result.integer_products == result.promised == 0
    weights = f"{len(model.weights)} weights of codebook 4 bits per channel"
    assert any(weights in note and "floating point" in note for note in result.notes)
    wide = [q for q in model.graph.quantizers.values() if q.too_wide]
    assert any("activations of twin" in note for note in result.notes) == bool(wide)


FEW_OCTAVES = {"base": torch.tensor(10.0), "shift": torch.tensor(0.0)}
"""At 4 bits, 240 steps."""


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["twin", "adalog"])
def test_values_within_eight_bits_run_in_integer_kernels(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Any, target: str, name: str
) -> None:
    formats = {"insert.post_activation.format": "adalog"} if name == "adalog" else TWIN
    model = quantized("plain", "w4a4", "rtn", formats, target=target)
    for quantizer in model.graph.quantizers.values():
        p = quantizer.parameters_dict()
        if "ratio" in p:
            quantizer.set_parameters(**{**p, "ratio": torch.tensor(4.0), "scale": 0.25 * p["scale"] * p["ratio"]})
        elif "base" in p:
            quantizer.set_parameters(**{**p, **FEW_OCTAVES})
        assert quantizer.has_integer_values
    result = model.export(tmp_path / "m.onnx", images, target=target)
    assert result.integer_products == result.promised == 3
    assert max(proof.error for proof in result.segments) < 1e-5
    torch.testing.assert_close(model.integer()(images), model(images), rtol=1e-3, atol=1e-4)


def test_an_artifact_of_both_reloads_to_the_same_outputs(
    quantized: Callable[..., Any], images: torch.Tensor, tmp_path: Any
) -> None:
    model = quantized("plain", "w4a4", "rtn", {**TWIN, **CODEBOOK}, scope="deploy")
    model.save(tmp_path / "artifact")
    loaded = vitq.load(tmp_path / "artifact")
    assert torch.equal(loaded(images), model(images))
    assert {q.format.name for q in loaded.weights.values()} == {"codebook"}


def test_a_codebook_is_refused_for_activations(quantized: Callable[..., Any]) -> None:
    with pytest.raises(vitq.errors.RecipeError, match=r"insert\.post_norm\.format: 'codebook' is a format of weights"):
        quantized("plain", "w4a4", "rtn", {"insert.post_norm.format": "codebook"})


def test_the_rounding_of_a_codebook_cannot_be_learnt(quantized: Callable[..., Any]) -> None:
    with pytest.raises(vitq.errors.RecipeError, match="rounding can only be learnt where all codes are one scale"):
        quantized("plain", "w4a4", "brecq", CODEBOOK)


GROUPS = {"insert.weight.granularity": "group(8)"}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_in_groups_are_proven_and_said_to_be_floating(
    quantized: Callable[..., Any], exported: Callable[..., Any], images: torch.Tensor, tmp_path: Any, target: str
) -> None:
    result, _ = exported("plain", "w4a8", "rtn", GROUPS, scope="deploy", export={"target": target})
    assert max(proof.error for proof in result.segments) < 1e-5
    assert result.integer_products == result.promised == 0
    assert any("weights of affine 4 bits per group(8)" in note for note in result.notes)
    model = quantized("plain", "w4a8", "rtn", GROUPS, scope="deploy")
    model.save(tmp_path / "artifact")
    assert torch.equal(vitq.load(tmp_path / "artifact")(images), model(images))


def test_a_size_that_does_not_divide_a_weight_is_refused_by_its_name(quantized: Callable[..., Any]) -> None:
    with pytest.raises(vitq.errors.RecipeError, match=r"insert\.weight\.granularity: '.*': groups of 7 do not divide"):
        quantized("plain", "w4a8", "rtn", {"insert.weight.granularity": "group(7)"})

"""Formats of the field's papers as operations of a file, bit for bit, and through an artifact and ONNX Runtime."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq

pytest.importorskip("onnxscript")

from vitq.calibrate.assign import search_alone
from vitq.calibrate.member import Member
from vitq.export import operators  # noqa: F401
from vitq.export.lowerings import LOWERINGS, Lowering, operation_of, refusal
from vitq.graph import Role, Site
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer

AXES = {Granularity.TENSOR: None, Granularity.CHANNEL: -1, Granularity.TOKEN: -2, Granularity.HEAD: -3}
NAMES = ("adalog", "shift_uniform_log2", "matthew", "power_of_two_factor", "whole_factor", "outlier_channels")


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def searched(x: torch.Tensor, form: Format, axis: int | None) -> Quantizer:
    quantizer = make_quantizer(form, axis)
    search_alone(Member(Site("x", "x", Role.OTHER, ()), x, quantizer), "mse")
    return quantizer


def lowered(lowering: Lowering, quantizer: Quantizer, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = operation_of(lowering.operation)(x, *lowering.arguments(quantizer, quantizer.parameters_dict()))
    return y


@pytest.mark.parametrize("granularity", list(AXES))
@pytest.mark.parametrize("name", NAMES)
def test_an_activation_s_operation_is_its_quantizer(name: str, granularity: Granularity) -> None:
    x = drawn(2, 3, 5, 8)
    x = (3 * x).softmax(-1) if name in ("shift_uniform_log2", "matthew") else x
    quantizer = searched(x, Format(name, 4, granularity), AXES[granularity])
    x = torch.cat((1.2 * x, torch.zeros(2, 3, 5, 8)))
    lowering = LOWERINGS[name]
    assert refusal(quantizer, is_weight=False) == "" and lowering.weight is None
    assert torch.equal(lowered(lowering.floating or lowering, quantizer, x), quantizer(x))
    if quantizer.has_integer_values:
        assert torch.equal(lowered(lowering, quantizer, x), quantizer(x))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("shape", [(6, 40), (6, 4, 3, 3)])
@pytest.mark.parametrize(
    ("name", "granularity"), [(n, g) for n in ("pwlq", "subset", "codebook") for g in ("channel", "tensor")]
)
def test_a_weight_s_table_has_its_values(name: str, granularity: str, shape: tuple[int, ...], unsigned: bool) -> None:
    w = drawn(*shape)
    quantizer = searched(w, Format(name, 3, Granularity(granularity)), 0 if granularity == "channel" else None)
    lowering = LOWERINGS[name].weight
    assert lowering is not None and lowering.refuses(quantizer) == ""
    codes, tensors = lowering.codes(quantizer, quantizer.encode(w), unsigned)
    assert codes.dtype == (torch.uint8 if unsigned else torch.int8)
    assert torch.equal(operation_of(lowering.operation)(codes, *tensors.values(), 0), quantizer(w))


IMAGES = drawn(16, 3, 8, 8)
CHOICES: list[tuple[str, dict[str, str]]] = [
    ("paper", {"weight": "subset", "post_activation": "adalog", "probabilities": "adalog"}),
    ("paper", {"weight": "pwlq", "probabilities": "shift_uniform_log2"}),
    ("paper", {"probabilities": "matthew", "query": "adalog"}),
    ("full", {"norm_input": "power_of_two_factor", "residual": "outlier_channels"}),
    ("full", {"norm_input": "whole_factor", "activation_input": "whole_factor"}),
]


def quantized(model: nn.Module, scope: str, formats: dict[str, str], **changes: Any) -> vitq.QuantizedModel:
    overrides: dict[str, Any] = {f"insert.{role}.format": name for role, name in formats.items()}
    if scope == "full":
        overrides |= {f"insert.{role}.granularity": "channel" for role in formats}
    return vitq.quantize(
        model, IMAGES, recipe="rtn", bits="w4a6", scope=scope, overrides={**overrides, **changes}, progress=False
    )


@pytest.mark.parametrize(("scope", "formats"), CHOICES)
def test_an_artifact_gives_them_back(one_block: nn.Module, scope: str, formats: dict[str, str], tmp_path: Path) -> None:
    model = quantized(one_block, scope, formats)
    model.save(tmp_path / "run")
    again = vitq.load(tmp_path / "run")
    assert torch.equal(again(IMAGES), model(IMAGES))
    held = {(site.role, site.format["name"]) for site in again.config.sites.values()}
    assert set(formats.items()) <= held


@pytest.mark.parametrize(
    ("formats", "granularity"), [(CHOICES[0][1], "head"), (CHOICES[1][1], "tensor"), (CHOICES[2][1], "tensor")]
)
def test_a_file_of_them_is_the_model(
    one_block: nn.Module, formats: dict[str, str], granularity: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    model = quantized(one_block, "paper", formats, **{"insert.probabilities.granularity": granularity})
    result = model.export(tmp_path / "m.onnx", IMAGES, target="onnxruntime")
    assert max(proof.error for proof in result.segments) < 1e-5
    assert result.integer_products == result.promised

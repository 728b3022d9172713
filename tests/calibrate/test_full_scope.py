"""Scope ``full`` from calibration to the saved artifact, and what is left of it in a file."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import ExportError
from vitq.export.besides import products_only
from vitq.graph import Role
from vitq.quantizers import Quantizer

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(4))
NEW = {"norm_input", "softmax_input", "activation_input", "residual"}


@pytest.fixture(scope="module")
def folder(one_block: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "run"
    overrides = {"insert.residual.granularity": "channel"}
    vitq.quantize(
        one_block, IMAGES, recipe="rtn", bits="w8a8", scope="full", overrides=overrides, out=path, progress=False
    )
    return path


@pytest.fixture
def model(folder: Path) -> vitq.QuantizedModel:
    return vitq.load(folder)


def test_every_new_role_is_quantized_saved_and_reported(model: vitq.QuantizedModel, folder: Path) -> None:
    assert model.config.scope == "full"
    rows = {row.role: row for row in model.scope_table()}
    assert set(rows) >= NEW and all(rows[role].bits == 8 for role in NEW)
    assert rows["residual"].granularity == "channel" and rows["norm_input"].granularity == "tensor"
    assert {site.role for site in model.config.sites.values()} >= NEW
    report = (folder / "report.html").read_text()
    assert all(role in report for role in NEW)


def test_what_a_norm_and_a_sum_read_is_one_quantized_tensor(model: vitq.QuantizedModel) -> None:
    graph = model.graph
    site = graph.sites["norm1/input"]
    assert site.role is Role.NORM_INPUT and [role for _, role in site.others] == [Role.RESIDUAL]
    nodes = {node.name: node for node in graph.module.graph.nodes}
    (call,) = nodes[site.node].users
    assert call.op == "call_module" and len(call.users) == 2


def test_every_quantizer_rounds_what_passes_through_it(model: vitq.QuantizedModel) -> None:
    seen: dict[str, torch.Tensor] = {}
    for name, quantizer in model.graph.quantizers.items():
        quantizer.register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0] - y).abs().max()}))
    model(IMAGES)
    named = {name for name in seen if model.graph.sites[name].role in NEW}
    assert len(named) == 6 and all(float(seen[name]) > 0 for name in named)


def test_the_integer_model_keeps_their_rounding_in_floating_point(model: vitq.QuantizedModel) -> None:
    torch.testing.assert_close(model.integer()(IMAGES), model(IMAGES), atol=1e-4, rtol=1e-3)


def test_a_file_holds_the_codes_of_products_alone(model: vitq.QuantizedModel) -> None:
    view, left = products_only(model.artifact)
    roles = {view.graph.sites[name].role for name in view.graph.quantizers}
    assert roles and not roles & NEW and NEW & {site.role for site in model.config.sites.values()}
    assert left == "2 of norm_input, 1 of softmax_input, 2 of residual, 1 of activation_input"
    assert not torch.equal(view.graph(IMAGES), model(IMAGES))
    with torch.no_grad():
        for name in [name for name in model.graph.quantizers if model.graph.sites[name].role in NEW]:
            model.graph.remove(name)
    assert torch.equal(view.graph(IMAGES), model(IMAGES))
    assert products_only(model.artifact) == (model.artifact, "")


def test_a_quantizer_that_a_product_and_a_sum_read_stays_for_the_product(model: vitq.QuantizedModel) -> None:
    graph = model.graph
    site = graph.sites["head/input"]
    quantizer = graph.quantizers[site.name]
    assert isinstance(quantizer, Quantizer)
    call = next(n for n in graph.module.graph.nodes if n.op == "call_module" and n.args[0].name == site.node)
    with graph.module.graph.inserting_before(next(iter(call.users))):
        graph.module.graph.call_function(torch.ops.aten.add.Tensor, (call, call))
    view, left = products_only(model.artifact)
    assert "1 of other" in left and site.name in view.graph.quantizers


def test_a_target_is_never_calibrated_in_scope_full(one_block: nn.Module) -> None:
    with pytest.raises(ExportError, match="of scope deploy or paper, not full"):
        vitq.quantize(one_block, IMAGES, recipe="rtn", bits="w8a8", scope="full", target="onnxruntime", progress=False)


def test_an_export_says_what_it_leaves_in_floating_point(model: vitq.QuantizedModel, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    result = model.export(tmp_path / "model.onnx", IMAGES, limit=8)
    assert result.end is not None and result.segments
    assert any("in floating point in this file (2 of norm_input" in line for line in result.notes)
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties["vitq.floating"].endswith("1 of activation_input")

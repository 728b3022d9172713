"""Files of mixed bits, a linear in floating point among them: proven in both runtimes, and benched."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

import vitq  # noqa: E402
from vitq.allocate import SOLVERS, Search  # noqa: E402
from vitq.bits import Bits, BitTable  # noqa: E402

TABLE = BitTable(Bits(8, 8), {"fc1/weight": 4, "fc2/weight": 32, "fc2/input": 32})
ALL_EIGHT = BitTable(Bits(8, 8), {"fc2/weight": 32, "fc2/input": 32})


@pytest.fixture(scope="module")
def mixed(quantized: Callable[..., vitq.QuantizedModel]) -> vitq.QuantizedModel:
    """W4 and W8 in one model, one linear of three in floating point."""
    return quantized("plain", TABLE, target="openvino")


def test_both_runtimes_prove_a_mix_with_a_linear_in_floating_point(
    mixed: vitq.QuantizedModel, exported: Callable[..., Any]
) -> None:
    assert mixed.config.bits.startswith("mixed w") and "fc2/weight" not in mixed.config.sites
    for target in ("onnxruntime", "openvino"):
        result, path = exported("plain", TABLE, target="openvino", export={"target": target})
        assert result.integer_products == result.promised == 2, target  # fc1 and head
        assert max(proof.error for proof in result.segments) < 1e-5
        types = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
        codes = {name: kind for name, kind in types.items() if "codes" in name and "scale" not in name}
        assert onnx.TensorProto.INT4 in codes.values() and onnx.TensorProto.INT8 in codes.values()
        assert result.end is not None and result.end.agreement == 100


def test_the_file_shrinks_by_half_a_byte_for_each_weight_of_four_bits(exported: Callable[..., Any]) -> None:
    small, _ = exported("plain", TABLE, target="openvino", export={"target": "onnxruntime"})
    large, _ = exported("plain", ALL_EIGHT, target="openvino", export={"target": "onnxruntime"})
    assert large.size_bytes - small.size_bytes == pytest.approx(24 * 48 / 2, abs=300)


def test_a_mix_is_packed_saved_and_loaded(mixed: vitq.QuantizedModel, images: torch.Tensor, tmp_path: Path) -> None:
    mixed.save(tmp_path)
    loaded = vitq.load(tmp_path)
    assert loaded(images).equal(mixed(images))
    torch.testing.assert_close(loaded.integer()(images), mixed(images), rtol=0.02, atol=0.01)


def test_a_mix_is_benched(
    models: dict[str, nn.Module], mixed: vitq.QuantizedModel, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitq.bench.bench import bench

    monkeypatch.setattr(sys.modules["vitq.bench.bench"], "added_peak_memory", lambda *_: 2**20)
    rows = bench({"mine": mixed}, images, batches=(1,), rounds=1, baselines=False)
    own = {row.runtime: row for row in rows if row.name == "mine"}
    assert set(own) == {"onnxruntime", "openvino"}
    assert all(row.integer_products == 2 for row in own.values())


def test_a_file_is_within_the_size_that_was_allocated(
    models: dict[str, nn.Module], images: torch.Tensor, tmp_path: Path
) -> None:
    options = {"recipe": "rtn", "target": "onnxruntime", "progress": False}
    whole = vitq.allocate(models["plain"], images, average_bits=8, candidates=(4, 8), **options)
    limit = whole.costs["size_bytes"] - 800
    found = whole.sensitivities.problem({"size_bytes": limit})
    bits = found.named(SOLVERS["program"](found, Search()))
    assert {4, 7} == {width for site, width in bits.items() if site.endswith("weight")}
    sizes = []
    for chosen in (whole.bits, bits):
        model = vitq.quantize(models["plain"], images, bits=BitTable(Bits(8, 8), chosen), **options)
        sizes.append(model.export(tmp_path / f"{len(sizes)}.onnx", images, target="onnxruntime").size_bytes)
    assert sizes[1] < sizes[0] <= whole.costs["size_bytes"] and limit - 3500 < sizes[1] <= limit

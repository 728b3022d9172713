"""The benchmark on a tiny model: every contender is measured, and accuracy is that of the file."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import vitq
from vitq.errors import ExportError
from vitq.export.bench import bench
from vitq.export.footprint import footprint
from vitq.models import load_model


def test_floating_point_artifacts_and_rivals_stand_side_by_side(tiny: Callable[..., nn.Module]) -> None:
    vit = tiny("vit", depth=1)
    images = torch.randn(16, 3, 32, 32)
    model = vitq.quantize(vit, images, recipe="rtn", bits="w8a8", target="openvino", progress=False)
    labels = model(images).argmax(-1)
    rows = bench(
        {"mine": model}, images, batches=(1, 4), rounds=2, labelled=[(images, labels)], floating=load_model(vit)
    )
    names = {(row.runtime, row.name): row for row in rows}
    for runtime in ("onnxruntime", "openvino"):
        mine, plain = names[runtime, "mine"], names[runtime, "float32"]
        assert mine.integer_products == 5 and plain.integer_products == 0
        assert mine.size_bytes < plain.size_bytes
        assert 0 < mine.memory_bytes < 1e9 and plain.memory_bytes > plain.size_bytes
        assert mine.top1 == pytest.approx(100, abs=7)
        assert plain.ratios == {1: 1.0, 4: 1.0}
        assert all(time > 0 for time in mine.milliseconds.values())
    assert names["onnxruntime", "onnxruntime's own int8"].integer_products > 0


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(ExportError, match="onnxruntime failed in a process of its own"):
        footprint("onnxruntime", b"no model", torch.zeros(1), 1, False)

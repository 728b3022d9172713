"""Models beside classifiers: each family is captured, computes what it computes, and is known by its task."""

import os
from pathlib import Path

import pytest
import torch
from families import FAMILIES, of_all_places, small

import vitq
from vitq.cli.families import FAMILIES as TOLD
from vitq.graph import capture
from vitq.graph.outputs import Outputs, as_outputs
from vitq.models import load_model, settle
from vitq.tasks import task_for

WHOLE = ("SegFormer", "DETR", "AutoBackbone DINOv2", "Mask R-CNN backbone", "YOLO-like")
"""Families that go the whole way here; what their parts need is what the others need too."""

COVERED = (
    "BEiT segmentation", "Depth Anything", "RT-DETR", "CLIP tower", "CLIP projection", "SigLIP tower", "DINOv2 tower",
    "torchvision ViT", "torchvision Swin", "AutoBackbone ResNet", "MobileNetV2", "ConvNeXt",
)  # fmt: skip
"""Families whose parts are tried by others or elsewhere; ``VITQ_ALL_FAMILIES=1`` tries them too."""
ALL = "VITQ_ALL_FAMILIES" in os.environ
SOME = [name for name in FAMILIES if ALL or name not in (*WHOLE, *COVERED)]
SAVED = [one.name for one in TOLD if one.saved] if ALL else WHOLE
FILES = [(one.name, target) for one in TOLD for target in one.files] if ALL else []
"""Files that ``vitq models --tested`` says are proven; one of them by default, whose weights are stacks of matrices."""


def images(name: str, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, FAMILIES[name][0], FAMILIES[name][0], generator=torch.Generator().manual_seed(0))


def matched(got: Outputs, expected: Outputs, task: str | None) -> Outputs:
    """Return the outputs with queries in the order of those that are expected."""
    return task_for({name: tuple(y.shape[1:]) for name, y in expected.items()}, task).matched_to(expected, got)


@torch.no_grad()
@pytest.mark.parametrize("name", SOME)
def test_the_graph_of_a_family_gives_all_that_the_model_gives(name: str) -> None:
    x_NCHW = images(name, 3)
    loaded = settle(load_model(small(name)), x_NCHW, lambda *_: None)
    assert loaded.task == FAMILIES[name][1]
    graph, expected = capture(loaded.module, x_NCHW[:2]), as_outputs(loaded.module(x_NCHW))
    got = as_outputs(graph(x_NCHW))
    assert list(got) == list(expected)
    got = matched(got, expected, loaded.task)
    for output, y in expected.items():
        assert float(y.std()) > 1e-5
        torch.testing.assert_close(got[output], y, rtol=1e-4, atol=1e-4 * float(y.abs().max()), check_stride=False)


@torch.no_grad()
@pytest.mark.parametrize("name", SAVED)
def test_a_family_is_quantized_saved_and_read_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, x_NCHW = of_all_places(name), images(name)
    made = vitq.quantize(model, x_NCHW, recipe="rtn", bits="w8a8", limit=4, progress=False)
    assert made.config.task == FAMILIES[name][1] and len(made.graph.quantizers) >= 4
    loaded = settle(load_model(model), x_NCHW, lambda *_: None)
    expected, got = as_outputs(loaded.module(x_NCHW)), as_outputs(made(x_NCHW))
    again = as_outputs(vitq.load(made.save(tmp_path / "a"))(x_NCHW))
    assert all(torch.equal(again[output], y) for output, y in got.items())
    got = matched(got, expected, loaded.task)
    for output, y in expected.items():
        assert float((got[output] - y).norm() / y.norm()) < 0.1, output


@pytest.mark.parametrize(("name", "target"), FILES or [("SAM encoder", "onnxruntime")])
def test_the_file_of_a_family_is_proven(name: str, target: str, tmp_path: Path) -> None:
    pytest.importorskip(target)
    x_NCHW = images(name)
    made = vitq.quantize(small(name), x_NCHW, recipe="rtn", target=target, limit=4, progress=False)
    exported = made.export(tmp_path / "m.onnx", x_NCHW, target=target)
    assert exported.integer_products == exported.promised
    assert (exported.integer_convolutions or 0) >= exported.promised_convolutions


def test_what_is_told_of_families_is_what_is_tested() -> None:
    assert [one.name for one in TOLD] == list(FAMILIES)
    assert all(one.saved and one.files == ("onnxruntime", "openvino") for one in TOLD)
    assert all(one.task == FAMILIES[one.name][1] for one in TOLD if FAMILIES[one.name][1] is not None)

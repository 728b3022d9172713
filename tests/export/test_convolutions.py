"""Convolutions of every kind are exported, and their files compute what the simulation does."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.export.verify.rounded_biases import moved_by_biases


class Convolutions(nn.Module):
    """A depthwise, a grouped and a plain one behind a batch norm, and transposed ones, of one and two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.plain, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.up, self.line = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv1d(6, 6, 3)
        self.wide, self.head = nn.ConvTranspose1d(6, 6, 2, 2, groups=2), nn.Linear(6, 10)
        with torch.no_grad():
            self.norm.running_mean.normal_(0, 0.1)
            self.norm.weight.uniform_(-1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.deep(self.stem(x).relu()).chunk(2, 1)  # what splits is read in parts by the proof
        y = nn.functional.silu(self.norm(self.plain(torch.cat((a, b + a), 1).relu())))
        y = torch.relu(self.up(torch.relu(self.grouped(y)))).flatten(2)
        return self.head(torch.relu(self.wide(torch.relu(self.line(y)))).mean(-1))


@pytest.mark.parametrize(("target", "promised"), [("onnxruntime", 0), ("openvino", 4)])
def test_the_file_of_a_model_with_convolutions_of_every_kind_is_proven(
    target: str, promised: int, tmp_path: Path
) -> None:
    pytest.importorskip(target)
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16)
    quantized = vitq.quantize(Convolutions().eval(), images, target=target, recipe="rtn", progress=False)
    exported = quantized.export(tmp_path / "up.onnx", images, target=target)
    assert exported.path.exists() and sum(proof.sites for proof in exported.segments) == 7
    assert exported.promised_convolutions == promised and (exported.integer_convolutions or 0) >= promised


class Folded(nn.Module):
    """Convolutions with a batch norm and a ReLU behind each, as in ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        layers = (nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layers = nn.Sequential(*layers, *copy.deepcopy(layers), *copy.deepcopy(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


def test_behind_folded_norms_onnxruntime_has_integer_kernels_and_rounded_biases_are_allowed_for(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model, images = Folded().eval(), torch.randn(16, 3, 32, 32)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.3)
        norm.weight.data.uniform_(-2, 2)
    quantized = vitq.quantize(model, images, recipe="rtn", progress=False)
    exported = quantized.export(tmp_path / "folded.onnx", images)
    assert exported.integer_convolutions == 2  # the third is followed by no quantizer
    moved = moved_by_biases(quantized.artifact.graph, quantized.artifact.weights)
    assert set(moved) == {"layers.3/input", "layers.6/input"}
    assert all(0 < share < 0.005 for share in moved.values())  # at most half of one product's step
    proofs = [proof for proof in exported.segments if proof.moved]
    assert proofs and all(0 < proof.flipped < 1e-4 + proof.moved for proof in proofs)
    quantized.artifact.graph.module.get_parameter("conv2d_1_bias").zero_()
    whole = moved_by_biases(quantized.artifact.graph, quantized.artifact.weights)
    assert whole["layers.3/input"] == 0 and whole["layers.6/input"] == moved["layers.6/input"]

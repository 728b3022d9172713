"""Transposed and one-dimensional convolutions are exported, and their files compute what the simulation does."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vitq


class Upsampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.line = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv1d(6, 6, 3)
        self.grouped, self.head = nn.ConvTranspose1d(6, 6, 2, 2, groups=2), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.up(torch.relu(self.stem(x)))).flatten(2)
        return self.head(torch.relu(self.grouped(torch.relu(self.line(y)))).mean(-1))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_file_of_a_model_with_convolutions_of_every_kind_is_proven(target: str, tmp_path: Path) -> None:
    pytest.importorskip(target)
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16)
    quantized = vitq.quantize(Upsampler().eval(), images, bits="w8a8", recipe="rtn", scope="deploy", progress=False)
    exported = quantized.export(tmp_path / "up.onnx", images, target=target)
    assert exported.path.exists() and sum(proof.sites for proof in exported.segments) == 4

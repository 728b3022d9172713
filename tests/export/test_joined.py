"""Rows that are joined and then quantized are multiplied in integers by every runtime."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vitq


class Joined(nn.Module):
    """Two sizes of patches, joined along an axis that is not summed; a product with ones is behind, as in RT-DETR."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        self.maps = maps
        self.stem, self.small, self.large = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 8, 4, 4)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.valid = nn.Buffer(torch.ones(1, 20, 1))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.stem(x_BCHW).relu()
        small, large = (part(x_BCHW).permute(0, 2, 3, 1) for part in (self.small, self.large))
        if self.maps:
            x = torch.cat((small, large.repeat_interleave(2, 2)), 1).flatten(1, 2)
            x = self.fc(torch.concat((small, small.flip(1)), 2)).flatten(1, 2).mean(1) + self.fc(x).mean(1)
        else:
            x = self.fc(self.valid * torch.cat((small.flatten(1, 2), large.flatten(1, 2)), 1)).mean(1)
        logits_BK: torch.Tensor = self.head(x.relu())
        return logits_BK


@pytest.mark.parametrize("maps", [False, True], ids=["tokens", "maps"])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_joined_rows_are_quantized_behind(target: str, maps: bool, tmp_path: Path) -> None:
    pytest.importorskip(target)
    torch.manual_seed(0)
    model, x_NCHW = Joined(maps).eval(), torch.randn(8, 3, 16, 16)
    made = vitq.quantize(model, x_NCHW, recipe="rtn", target=target, progress=False)
    exported = made.export(tmp_path / "a.onnx", x_NCHW, target=target)
    assert exported.integer_products == exported.promised == (3 if maps else 2)

"""Quantize a module of your own, with images that are tensors in memory.

    python examples/own_module.py

Any module with one image tensor in and one tensor out will do; vitq never asks what it is called.
"""

import torch
from torch import Tensor, nn

import vitq


class Block(nn.Module):
    """Attention and MLP, each with its norm and shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        qkv_3BHTD = self.qkv(self.norm1(x_BTC)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a_BHTD = nn.functional.scaled_dot_product_attention(*qkv_3BHTD.unbind(0))
        x_BTC = x_BTC + self.proj(a_BHTD.transpose(1, 2).flatten(2))
        return x_BTC + self.mlp(self.norm2(x_BTC))


class SmallViT(nn.Module):
    """A vision transformer for pictures of 32 x 32 pixels, without a class token."""

    def __init__(self, dim: int = 48, depth: int = 2, heads: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, stride=8)
        self.position = nn.Parameter(torch.randn(16, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images in, logits (B, K) out."""
        x_BTC = self.patches(x_BCHW).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return self.head(self.norm(x_BTC).mean(1))


def main() -> None:
    torch.manual_seed(0)
    module = SmallViT().eval()  # yours would be trained
    images_NCHW = torch.randn(32, 3, 32, 32)  # preprocessed as the module wants it

    model = vitq.quantize(module, images_NCHW, recipe="repq", bits="w4a6", progress=False)

    logits_BK, expected_BK = model(images_NCHW[:8]), module(images_NCHW[:8])
    error = (logits_BK - expected_BK).square().mean() / expected_BK.square().mean()
    print(f"relative error of the logits: {error:.4f}")
    for block, value in model.metrics.segment_errors.items():
        print(f"{block:12} {value:.4f}")


if __name__ == "__main__":
    main()

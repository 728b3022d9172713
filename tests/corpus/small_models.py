"""Parts of small models that several tests are made of."""

from typing import Any

import torch
from torch import nn

from vitq.models.torchvision_shim import ensure_torchvision

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
SWIN: dict[str, Any] = {"img_size": 24, "window_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}
PYRAMID: dict[str, Any] = {"embed_dims": (16, 32), "num_heads": (1, 2), "sr_ratios": (4, 2), "mlp_ratios": (2, 2)}
TWO_STAGES: dict[str, Any] = {"embed_dims": (32, 64), "num_heads": (1, 2), "window_sizes": (7, 7)}
LEVIT: dict[str, Any] = {"embed_dim": (32, 48), "num_heads": (2, 3), "key_dim": 8, "depth": (0, 1)}
ZOO: dict[str, tuple[int, str, dict[str, Any]]] = {
    "vit": (32, "vit_tiny_patch16_224", VIT | {"depth": 2}),
    "deit": (32, "deit_tiny_distilled_patch16_224", VIT | {"depth": 2}),
    "swin": (24, "swin_tiny_patch4_window7_224", SWIN),  # 6 x 6 patches: its windows are padded
    "swinv2": (32, "swinv2_tiny_window8_256", SWIN | {"img_size": 32, "depths": (1, 1)}),
    "beit": (32, "beit_base_patch16_224", VIT),
    "eva02": (32, "eva02_tiny_patch14_224", VIT),
    "dinov2": (32, "vit_small_patch14_dinov2", VIT | {"depth": 2}),
    "siglip": (32, "vit_base_patch16_siglip_224", VIT),
    "clip quickgelu": (32, "vit_base_patch32_clip_quickgelu_224", VIT),
    "cait": (
        32,
        "cait_xxs24_224",
        {"img_size": 32, "depth": 1, "depth_token_only": 1, "embed_dim": 24, "num_heads": 3},
    ),
    "mobilevit": (64, "mobilevit_xxs", {}),
    "levit": (64, "levit_128s", {"img_size": 64, **LEVIT}),
    "maxvit": (64, "maxvit_rmlp_pico_rw_256", {"img_size": 64, "depths": (1,), "embed_dim": (32,)}),
    "pvt": (32, "pvt_v2_b0", {"depths": (1, 1), **PYRAMID}),
    "tiny_vit": (56, "tiny_vit_5m_224", {"depths": (1, 1), **TWO_STAGES}),
    "hiera": (64, "hiera_tiny_224", {"img_size": (64, 64), "embed_dim": 32, "stages": (1, 1), "q_pool": 1}),
    "convnext": (32, "convnext_atto", {"depths": (1, 1, 1, 2), "dims": (8, 16, 24, 32)}),
}
"""Families of vision transformers by name: the side of an image, timm's name and how it is made small."""


def zoo(name: str) -> nn.Module:
    """Return a model of ``ZOO``, x_BCHW to 10 logits, always of the same weights, none of them zero or one.

    Who captures it on two images of float32 shares what torch does with all others.
    """
    ensure_torchvision()
    import timm

    _, known, options = ZOO[name]
    if name == "mobilevit":
        options = {"blocks": timm.models.mobilevit.model_cfgs[known].blocks[:4:2]}
    torch.manual_seed(0)
    model = lively(timm.create_model(known, num_classes=10, **options))
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.requires_grad_(False)


class Block(nn.Module):
    """A residual branch of two linears behind a layer norm, 8 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x_B8: torch.Tensor) -> torch.Tensor:
        return x_B8 + self.fc2(self.fc1(self.norm(x_B8)).relu())


class ClipTower(nn.Module):
    """The vision tower of a Hugging Face CLIP, as x_BCHW to embeddings."""

    def __init__(self) -> None:
        super().__init__()
        ensure_torchvision()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        small = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
        config = CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=12)
        self.clip = CLIPVisionModelWithProjection(config)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self.clip(x_BCHW).image_embeds
        return embeds


def lively(model: nn.Module) -> nn.Module:
    """Leave no parameter at zero or one: norms, biases, class tokens and LayerScale all matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def lively_norms(model: nn.Module) -> nn.Module:
    """Give norms and biases values that are not trivial, some channels far larger than others."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            size = module.weight.shape
            with torch.no_grad():
                module.weight.copy_(torch.rand(size, generator=generator).add_(0.1).pow_(-0.7))
                module.bias.copy_(torch.randn(size, generator=generator))
    return model

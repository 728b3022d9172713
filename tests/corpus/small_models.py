"""Parts of small models that several tests are made of."""

import torch
from torch import nn


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

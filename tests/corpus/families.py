"""Small random models of every family that vitq takes beside classifiers; no weights, no network."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from vitq.models.torchvision_shim import ensure_torchvision

SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
ONE: dict[str, Any] = {**SMALL, "num_hidden_layers": 1}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def _hf(kind: str, config: str, **values: Any) -> nn.Module:
    ensure_torchvision()
    import transformers

    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**values))
    return model


def _segformer() -> nn.Module:
    return _hf(
        "SegformerForSemanticSegmentation", "SegformerConfig", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[8, 16], num_attention_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip


def _upernet() -> nn.Module:
    ensure_torchvision()
    from transformers import ConvNextConfig

    backbone = ConvNextConfig(
        num_stages=3, depths=[1, 1, 1], hidden_sizes=[8, 8, 16], out_features=["stage1", "stage2", "stage3"]
    )
    return _hf(
        "UperNetForSemanticSegmentation", "UperNetConfig", backbone_config=backbone, hidden_size=16, num_labels=3,
        pool_scales=[1], use_auxiliary_head=True, auxiliary_channels=8, auxiliary_in_channels=16,
    )  # fmt: skip


def _beit() -> nn.Module:
    return _hf(
        "BeitForSemanticSegmentation", "BeitConfig", **{**SMALL, "num_hidden_layers": 4}, out_indices=[1, 2, 3, 4],
        pool_scales=[1], num_labels=3, use_auxiliary_head=False, use_relative_position_bias=True,
    )  # fmt: skip


def _dpt() -> nn.Module:
    return _hf(
        "DPTForDepthEstimation", "DPTConfig", **{**SMALL, "num_hidden_layers": 4}, is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip


def _depth_anything() -> nn.Module:
    ensure_torchvision()
    from transformers import Dinov2Config

    backbone = Dinov2Config(
        **{**SMALL, "num_hidden_layers": 4, "patch_size": 14, "image_size": 28}, apply_layernorm=True,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    model: Any = _hf(
        "DepthAnythingForDepthEstimation", "DepthAnythingConfig", backbone_config=backbone, reassemble_hidden_size=16,
        patch_size=14, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    nn.init.ones_(model.head.conv3.bias)  # else its last ReLU may give nothing but zeros
    return cast(nn.Module, model)


def _yolos() -> nn.Module:
    return _hf(
        "YolosForObjectDetection", "YolosConfig", **{**ONE, "image_size": [32, 32]}, num_detection_tokens=5,
        num_labels=3, use_mid_position_embeddings=False,
    )  # fmt: skip


def _detr() -> nn.Module:
    ensure_torchvision()
    from transformers import ResNetConfig

    backbone = ResNetConfig(**RESNET, out_features=["stage2"])
    return _hf(
        "DetrForObjectDetection", "DetrConfig", use_timm_backbone=False, backbone_config=backbone, backbone=None,
        use_pretrained_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5, num_labels=3,
    )  # fmt: skip


def _rt_detr() -> nn.Module:
    ensure_torchvision()
    from transformers import RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    return _hf(
        "RTDetrForObjectDetection", "RTDetrConfig", backbone_config=backbone, encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16], feat_strides=[8, 16, 32], encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=5, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, num_denoising=0, num_labels=3, anchor_image_size=[64, 64],
    )  # fmt: skip


def _backbone() -> nn.Module:
    return _hf("Dinov2Backbone", "Dinov2Config", **SMALL, out_features=["stage1", "stage2"])


def _resnet_backbone() -> nn.Module:
    return _hf("ResNetBackbone", "ResNetConfig", **RESNET, out_features=["stage1", "stage2"])


def _sam() -> nn.Module:
    return _hf(
        "SamVisionModel", "SamVisionConfig", hidden_size=16, output_channels=8, num_hidden_layers=2,
        num_attention_heads=2, image_size=32, patch_size=8, window_size=2, global_attn_indexes=[1], mlp_dim=32,
    )  # fmt: skip


def _dinov3() -> nn.Module:
    return _hf("DINOv3ViTModel", "DINOv3ViTConfig", **ONE, num_register_tokens=2)


def _torchvision(name: str, **options: Any) -> nn.Module:
    ensure_torchvision()
    import torchvision

    model: nn.Module = getattr(torchvision.models, name)(**options)
    return model


def _vit() -> nn.Module:
    ensure_torchvision()
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


def _swin() -> nn.Module:
    ensure_torchvision()
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2, 1], [1, 2], [4, 4], num_classes=5)


def _pyramid() -> nn.Module:
    """Mask R-CNN's backbone: a ResNet of basic blocks with its feature pyramid."""
    ensure_torchvision()
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    return BackboneWithFPN(net, {"layer1": "0", "layer2": "1"}, [64, 128], 16)


def _timm(name: str, **options: Any) -> nn.Module:
    ensure_torchvision()
    import timm

    model: nn.Module = timm.create_model(name, **options)
    return model


def _mobilenet_v2() -> nn.Module:
    ensure_torchvision()
    from torchvision.models import MobileNetV2

    return MobileNetV2(num_classes=5, width_mult=0.25, inverted_residual_setting=[[1, 32, 1, 1], [6, 32, 2, 2]])


def _mobilenet_v4() -> nn.Module:
    """Its own blocks: a universal inverted bottleneck of both kinds, and one behind a fused one."""
    ensure_torchvision()
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.mobilenetv3 import MobileNetV3

    stages = [["cn_r1_k3_s2_e1_c16"], ["uir_r1_a5_k5_s2_e3_c16", "uir_r1_a3_k0_s1_e2_c16"], ["cn_r1_k1_s1_c16"]]
    return MobileNetV3(decode_arch_def(stages), num_classes=5, num_features=16, stem_size=8)


class YoloLike(nn.Module):
    """What YOLO's blocks are made of: strided, grouped and depthwise convolutions, SiLU, splits, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.mixed = nn.Conv2d(24, 16, 1)
        self.down, self.up = nn.Conv2d(16, 16, 3, 2, 1, groups=4), nn.ConvTranspose2d(16, 16, 2, 2)
        self.pool, self.head = nn.MaxPool2d(5, 1, 2), nn.Conv2d(32, 7, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.norm(self.stem(x_BCHW)))
        a, b = x.chunk(2, 1)
        x = nn.functional.silu(self.mixed(torch.cat((a, b, b + self.deep(b)), 1)))
        y: torch.Tensor = self.head(torch.cat((x, self.up(self.pool(nn.functional.silu(self.down(x))))), 1))
        return y


FAMILIES: dict[str, tuple[int, str | None, Callable[[], nn.Module]]] = {
    "SegFormer": (32, "dense", _segformer),
    "UperNet": (64, "dense", _upernet),
    "BEiT segmentation": (32, "dense", _beit),
    "DPT": (32, "dense", _dpt),
    "Depth Anything": (28, "dense", _depth_anything),
    "YOLOS": (32, "boxes", _yolos),
    "DETR": (32, "boxes", _detr),
    "RT-DETR": (64, "boxes-sigmoid", _rt_detr),
    "AutoBackbone DINOv2": (32, "features", _backbone),
    "AutoBackbone ResNet": (32, "features", _resnet_backbone),
    "CLIP tower": (32, "features", lambda: _hf("CLIPVisionModel", "CLIPVisionConfig", **ONE)),
    "CLIP projection": (32, "features", lambda: _hf("CLIPVisionModelWithProjection", "CLIPVisionConfig", **ONE)),
    "SigLIP tower": (32, "features", lambda: _hf("SiglipVisionModel", "SiglipVisionConfig", **ONE)),
    "DINOv2 tower": (32, "features", lambda: _hf("Dinov2Model", "Dinov2Config", **ONE)),
    "DINOv3 tower": (32, "features", _dinov3),
    "SAM encoder": (32, "features", _sam),
    "torchvision ViT": (32, None, _vit),
    "torchvision Swin": (32, None, _swin),
    "Mask R-CNN backbone": (32, None, _pyramid),
    "timm features_only": (
        32, "features",
        lambda: _timm("vit_tiny_patch16_224", features_only=True, img_size=32, patch_size=8, embed_dim=16, depth=2,
                      num_heads=2, out_indices=(0, 1)),
    ),
    "timm headless": (
        32, "features",
        lambda: _timm("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, embed_dim=16, depth=1,
                      num_heads=2),
    ),
    "ResNet": (32, None, lambda: _timm("resnet10t", num_classes=5, channels=(8, 8, 16, 16))),
    "MobileNetV2": (32, None, _mobilenet_v2),
    "EfficientNet": (32, None, lambda: _timm("test_efficientnet", num_classes=5)),
    "MobileNetV4": (32, None, _mobilenet_v4),
    "ConvNeXt": (32, None, lambda: _timm("test_convnext", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))),
    "YOLO-like": (32, None, YoloLike),
}  # fmt: skip
"""By name: the side of an image, the task that is found, and what makes the model."""


PLACES = {"RT-DETR": 84}
"""Families that take the best of so many places as queries; which ones a random model takes hangs on rounding."""


def of_all_places(name: str) -> nn.Module:
    """Return a model of a family that takes all places as queries, so that rounding changes their order alone."""
    model: Any = small(name)
    if name in PLACES:
        model.config.num_queries = PLACES[name]
    return cast(nn.Module, model)


def small(name: str) -> nn.Module:
    """Return a model of a family, always of the same weights, in which nothing is zero or one."""
    torch.manual_seed(0)
    model = FAMILIES[name][2]().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), torch.Tensor):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model

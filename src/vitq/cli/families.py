"""What vitq's tests prove of families of models: data for ``vitq models --tested``."""

from dataclasses import dataclass

BOTH = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Family:
    """A family of models, where it is from, the task that is found for it, and what is proven of a small one.

    All outputs of its graph are the model's. ``saved``: W8A8 is close, and read back bit for bit;
    ``files``: the runtimes whose file is proven to compute what the simulation does.
    """

    name: str
    source: str
    task: str
    saved: bool = True
    files: tuple[str, ...] = BOTH


HF, TIMM, TORCHVISION, MODULE = "Hugging Face", "timm", "torchvision", "a module"

FAMILIES = (
    Family("SegFormer", HF, "dense"),
    Family("UperNet", HF, "dense"),
    Family("BEiT segmentation", HF, "dense"),
    Family("DPT", HF, "dense"),
    Family("Depth Anything", HF, "dense"),
    Family("YOLOS", HF, "boxes"),
    Family("DETR", HF, "boxes"),
    Family("RT-DETR", HF, "boxes-sigmoid"),
    Family("AutoBackbone DINOv2", HF, "features"),
    Family("AutoBackbone ResNet", HF, "features"),
    Family("CLIP tower", HF, "features"),
    Family("CLIP projection", HF, "features"),
    Family("SigLIP tower", HF, "features"),
    Family("DINOv2 tower", HF, "features"),
    Family("DINOv3 tower", HF, "features"),
    Family("SAM encoder", HF, "features"),
    Family("torchvision ViT", TORCHVISION, "classes"),
    Family("torchvision Swin", TORCHVISION, "classes"),
    Family("Mask R-CNN backbone", TORCHVISION, "values"),
    Family("timm features_only", TIMM, "features"),
    Family("timm headless", TIMM, "features"),
    Family("ResNet", TIMM, "classes"),
    Family("MobileNetV2", TORCHVISION, "classes"),
    Family("EfficientNet", TIMM, "classes"),
    Family("MobileNetV4", TIMM, "classes"),
    Family("ConvNeXt", TIMM, "classes"),
    Family("YOLO-like", MODULE, "values"),
)
"""Beside the classifiers of ``vitq.cli.models.TESTED``; all of them go the whole way."""

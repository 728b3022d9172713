"""What vitq's tests prove of families of models: data for ``vitq models --tested``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A family of models, where it is from, the task that is found for it, and what is proven of a small one.

    ``captured``: all outputs of its graph are the model's; ``saved``: W8A8 is close, and read back bit for bit;
    ``files``: the runtimes whose file is proven to compute what the simulation does.
    """

    name: str
    source: str
    task: str
    saved: bool
    files: tuple[str, ...] = ()


ORT, OV = "onnxruntime", "openvino"
BOTH = (ORT, OV)
HF, TIMM, TORCHVISION, MODULE = "Hugging Face", "timm", "torchvision", "a module"

FAMILIES = (
    Family("SegFormer", HF, "dense", True, BOTH),
    Family("UperNet", HF, "dense", False, BOTH),
    Family("BEiT segmentation", HF, "dense", False, (ORT,)),
    Family("DPT", HF, "dense", False, (ORT,)),
    Family("Depth Anything", HF, "dense", False, (ORT,)),
    Family("YOLOS", HF, "boxes", False, (ORT,)),
    Family("DETR", HF, "boxes", True, (ORT,)),
    Family("RT-DETR", HF, "boxes-sigmoid", False, (ORT,)),
    Family("AutoBackbone DINOv2", HF, "features", True),
    Family("AutoBackbone ResNet", HF, "features", False),
    Family("CLIP tower", HF, "features", False),
    Family("CLIP projection", HF, "features", False),
    Family("SigLIP tower", HF, "features", False),
    Family("DINOv2 tower", HF, "features", False),
    Family("DINOv3 tower", HF, "features", False, BOTH),
    Family("SAM encoder", HF, "features", False, BOTH),
    Family("torchvision ViT", TORCHVISION, "classes", False),
    Family("torchvision Swin", TORCHVISION, "classes", False, (ORT,)),
    Family("Mask R-CNN backbone", TORCHVISION, "values", True, BOTH),
    Family("timm features_only", TIMM, "features", False),
    Family("timm headless", TIMM, "features", False),
    Family("ResNet", TIMM, "classes", False, BOTH),
    Family("MobileNetV2", TORCHVISION, "classes", False, BOTH),
    Family("EfficientNet", TIMM, "classes", False, BOTH),
    Family("MobileNetV4", TIMM, "classes", False, BOTH),
    Family("ConvNeXt", TIMM, "classes", False, BOTH),
    Family("YOLO-like", MODULE, "values", True, BOTH),
)
"""Beside the classifiers of ``vitq.cli.models.TESTED``."""

"""Import torchvision beside a CPU-only torch: its Linux wheel from PyPI is a CUDA build and fails to import
there.
"""

import importlib
from functools import cache

import torch

_BOX_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def ensure_torchvision() -> torch.library.Library | None:
    """Make ``import torchvision`` (and with it timm and transformers) work; does nothing where it already
    works.

    A CUDA build of torchvision cannot load its operators beside a CPU torch, so the import stops at
    ``operator torchvision::nms does not exist``. Declaring the two schemas first is enough for models,
    transforms and image folders, which use neither operator. Returns the library that holds the schemas (it
    lives as long as this function's cache), or None where nothing had to be done. Source: vitq.
    """
    if torch.version.cuda is not None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in _BOX_OPERATORS:
        library.define(operator + _SCHEMA)
    importlib.import_module("torchvision")
    return library

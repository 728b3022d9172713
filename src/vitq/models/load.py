"""One door to every model: a timm name, a Hugging Face id, a local folder, or a module from Python."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vitq.errors import ModelError
from vitq.models.huggingface import LogitsOf, assumed_preprocessing, load_huggingface
from vitq.models.loaded import LoadedModel
from vitq.models.preprocessing import Preprocessing
from vitq.models.timm_models import load_timm, load_timm_folder, timm_preprocessing
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import check_finite, load_weights, state_sha256


def load_model(
    spec: str | nn.Module,
    *,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> LoadedModel:
    """Load a classifier in eval mode and float32 on the CPU; a given ``nn.Module`` is copied and never
    changed.

    ``spec`` is a timm name (also ``timm/...`` and ``hf-hub:...``), a Hugging Face id ``owner/name``, a local
    folder with ``config.json``, or a module. ``weights`` is a file, ``"random"`` (seeded; for speed tests),
    or None for the pretrained ones. ``preprocessing`` replaces the model's own. Raises ModelError when the
    model or its weights cannot be used.
    """
    if isinstance(spec, nn.Module):
        loaded = _copy_of_module(spec, weights, num_classes)
    elif Path(spec).is_dir():
        loaded = _load_folder(Path(spec), weights, num_classes)
    elif "/" in spec and not spec.startswith(("timm/", "hf-hub:", "hf_hub:")):
        if spec.count("/") > 1 or spec[0] in "/.~":
            raise ModelError(f"there is no folder '{spec}', and a Hugging Face id has the form owner/name")
        loaded = load_huggingface(spec, weights, num_classes)
    else:
        loaded = load_timm(spec, weights, num_classes)

    module = loaded.module.float().cpu().eval()
    check_finite(module, f"'{loaded.name}'")
    source = loaded.source | {"sha256": state_sha256(module), "num_classes": loaded.num_classes}
    return replace(loaded, module=module, source=source, preprocessing=preprocessing or loaded.preprocessing)


def _load_folder(folder: Path, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"folder '{folder}' holds no readable config.json of a timm or Hugging Face model") from error
    if "architecture" in config and "model_type" not in config:
        return load_timm_folder(folder, weights, num_classes)
    return load_huggingface(str(folder), weights, num_classes)


def _copy_of_module(module: nn.Module, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    name = type(module).__name__
    if weights == "random":
        raise ModelError(f"weights='random' is for models given by name; this {name} already has weights")
    try:
        mine = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"the {name} cannot be copied ({error}); give a module in its plain, untraced form") from error
    source: dict[str, Any] = {"kind": "module", "name": name, "weights": "module"}
    if weights is not None:
        source |= load_weights(mine, Path(weights))
    config = getattr(mine, "config", None)
    if _is_huggingface(mine):
        classes = num_classes or getattr(config, "num_labels", None)
        return LoadedModel(LogitsOf(mine), assumed_preprocessing(config), name, source, classes)
    classes = num_classes or getattr(mine, "num_classes", None)
    return LoadedModel(mine, _module_preprocessing(mine), name, source, classes)


def _is_huggingface(module: nn.Module) -> bool:
    transformers = sys.modules.get("transformers")  # a module of theirs cannot exist unless it was imported
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def _module_preprocessing(module: nn.Module) -> Preprocessing:
    if not getattr(module, "pretrained_cfg", None):
        return Preprocessing(assumed=True)
    ensure_torchvision()
    return timm_preprocessing(module)

"""One door to every model: a timm name, a Hugging Face id, a local folder, or a module from Python."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vitq.errors import ModelError
from vitq.models.huggingface import LogitsOf, assumed_preprocessing, load_huggingface, load_huggingface_whole
from vitq.models.loaded import LoadedModel
from vitq.models.modules import not_a_model, plain_copy
from vitq.models.preprocessing import Preprocessing
from vitq.models.timm_models import HUB_PREFIXES, load_timm, load_timm_folder, timm_preprocessing
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import check_finite, load_weights, state_sha256


def load_model(
    spec: str | Path | nn.Module,
    *,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    task: str | None = None,
) -> LoadedModel:
    """Load a model of images in eval mode and float32 on the CPU; a given ``nn.Module`` is copied and never
    changed.

    ``spec`` is a timm name (also ``timm/...`` and ``hf-hub:...``), a Hugging Face id ``owner/name``, a local folder
    with ``config.json``, or a module, which is taken out of DataParallel, AveragedModel and ``torch.compile``.
    ``weights`` is a file, ``"random"`` (seeded; for speed tests), or None for the pretrained ones; ``task`` the one for
    which a Hugging Face model gets its head. ``preprocessing`` replaces the model's own, or the values of it that a
    mapping names. Raises ModelError when the model or its weights cannot be used.
    """
    _check_arguments(spec, weights, num_classes)
    given = Preprocessing.whole(preprocessing)
    if isinstance(spec, nn.Module):
        loaded = _copy_of_module(spec, weights, num_classes)
    else:
        loaded = _load_named(str(spec), weights, num_classes, given, task)

    module = loaded.module.float().cpu().eval()
    check_finite(module, f"'{loaded.name}'")
    source = loaded.source | {"sha256": state_sha256(module), "num_classes": loaded.num_classes}
    own = given or loaded.preprocessing.changed(preprocessing)
    return replace(loaded, module=module, source=source, preprocessing=own)


def load_whole(spec: str) -> tuple[nn.Module, Preprocessing]:
    """Load a model of which a part is to be quantized, in eval mode, and the preprocessing of its images.

    Of Hugging Face it is of the class that it was saved as, whatever else than images it takes. Raises ModelError when
    there is no such model, or it cannot be used.
    """
    _check_arguments(spec, None, None)
    if _is_timm(spec):
        loaded = load_model(spec)
        return loaded.module, loaded.preprocessing
    return load_huggingface_whole(spec)


def _load_named(
    spec: str, weights: Path | str | None, num_classes: int | None, given: Preprocessing | None, task: str | None
) -> LoadedModel:
    of_timm, folder = _is_timm(spec), Path(spec)
    if not of_timm:
        name = str(folder) if folder.is_dir() else spec
        return load_huggingface(name, weights, num_classes, given, task)
    return load_timm_folder(folder, weights, num_classes) if folder.is_dir() else load_timm(spec, weights, num_classes)


def _is_timm(spec: str) -> bool:
    """Whether a name or a folder is timm's, and not Hugging Face's; ModelError where it can be neither's."""
    folder = Path(spec)
    try:
        is_folder = folder.is_dir()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        raise ModelError(f"model '{spec[:80]}' is neither a name nor a folder") from None
    if is_folder:
        config = _folder_config(folder)
        _check_no_artifact(folder, config)
        return "architecture" in config and "model_type" not in config
    if "/" not in spec or spec.startswith(("timm/", *HUB_PREFIXES)):
        return True
    if spec.count("/") > 1 or spec[0] in "/.~":
        raise ModelError(f"there is no folder '{spec}', and a Hugging Face id has the form owner/name")
    return False


def _folder_config(folder: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"folder '{folder}' holds no readable config.json of a timm or Hugging Face model") from error
    if not isinstance(config, dict):
        raise ModelError(
            f"folder '{folder}': config.json holds {json.dumps(config)[:40]}, not the configuration of a timm or "
            "Hugging Face model"
        )
    return config


def _check_no_artifact(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for the artifact of a run, whole or not."""
    if not ((folder / "graph.json").exists() or {"schema_version", "recipe", "sites"} <= set(config)):
        return
    source = config.get("source")
    made_of = source.get("name") if isinstance(source, Mapping) else None
    original = f" ('{made_of}')" if isinstance(made_of, str) else ""
    if not (folder / "graph.json").exists():
        raise ModelError(
            f"folder '{folder}' is a vitq artifact without its graph.json: copy it whole, or quantize the model that "
            f"it was made of{original} again"
        )
    raise ModelError(
        f"folder '{folder}' is a vitq artifact, which is quantized already: give the model that it was made "
        f"of{original}, or the artifact to evaluate, export or bench"
    )


def _check_arguments(spec: Any, weights: Any, num_classes: Any) -> None:
    if not isinstance(spec, str | Path | nn.Module) or spec == "":
        raise not_a_model(spec)
    if weights is not None and not isinstance(weights, str | Path):
        raise ModelError(f"weights is a {type(weights).__name__}; give a file (.safetensors, .pth) or 'random'")
    whole = isinstance(num_classes, int) and not isinstance(num_classes, bool) and num_classes > 0
    if num_classes is not None and not whole:
        raise ModelError(f"num_classes is {num_classes!r}; give a whole number from 1, or leave it out")


def _copy_of_module(module: nn.Module, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    own_copy = plain_copy(module)
    name = type(own_copy).__name__
    if weights == "random":
        raise ModelError(f"weights='random' is for models given by name; this {name} already has weights")
    source: dict[str, Any] = {"kind": "module", "name": name, "weights": "module"}
    if weights is not None:
        source |= load_weights(own_copy, Path(weights))
    if _is_huggingface(own_copy):
        return LoadedModel(LogitsOf(own_copy), assumed_preprocessing(own_copy.config), name, source, num_classes)
    return LoadedModel(own_copy, _module_preprocessing(own_copy), name, source, num_classes)


def _is_huggingface(module: nn.Module) -> bool:
    transformers = sys.modules.get("transformers")  # a module of theirs cannot exist unless it was imported
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def _module_preprocessing(module: nn.Module) -> Preprocessing:
    if not getattr(module, "pretrained_cfg", None):
        return Preprocessing(assumed=True)
    ensure_torchvision()
    return timm_preprocessing(module)

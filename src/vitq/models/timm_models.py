"""timm as a source of models: by registry name, by hub id, or from a folder that timm saved."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from torch import nn

from vitq.errors import ModelError
from vitq.models.hub import hub
from vitq.models.loaded import LoadedModel
from vitq.models.preprocessing import Preprocessing
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import RANDOM_WEIGHTS_SEED, load_weights, seeded_weights


def list_models(pattern: str = "") -> list[str]:
    """Return timm's model names that match a pattern with ``*`` and ``?``, or contain it when it has
    neither.
    """
    ensure_torchvision()
    import timm

    wildcard = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return cast(list[str], timm.list_models(wildcard))


def load_timm(name: str, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    """Build timm's ``name`` (``deit_tiny_patch16_224``, ``timm/...``, ``hf-hub:...``) with weights from a
    file, the hub or a seed.

    Raises ModelError for an unknown name, weights that do not fit, and a head that would stay untrained.
    """
    ensure_torchvision()
    import timm

    registry_name = name.removeprefix("timm/")
    on_hub = registry_name.startswith(("hf-hub:", "hf_hub:"))
    if not on_hub:
        _check_known(registry_name)
    if weights is None and not on_hub:
        _check_pretrained(registry_name, num_classes)

    with seeded_weights(), hub(f"'{name}'"):
        module = timm.create_model(registry_name, pretrained=weights is None, **_given(num_classes=num_classes))
    return _finish(module, name, weights, "hub")


def load_timm_folder(folder: Path, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    """Build a model from a folder that timm saved: ``config.json`` with its architecture, and
    ``model.safetensors``.
    """
    ensure_torchvision()
    import timm

    config = json.loads((folder / "config.json").read_text())
    _check_known(config["architecture"])
    classes = num_classes if num_classes is not None else config.get("num_classes")
    with seeded_weights():
        module = timm.create_model(
            config["architecture"],
            pretrained_cfg_overlay=config.get("pretrained_cfg"),
            **_given(num_classes=classes, global_pool=config.get("global_pool")),
            **config.get("model_args", {}),
        )
    return _finish(module, folder.name, weights if weights is not None else folder / "model.safetensors", "folder")


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """Return the preprocessing in ``module.pretrained_cfg``."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(module)
    return Preprocessing(
        input_size=tuple(config["input_size"]),
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=tuple(float(value) for value in config["mean"]),
        std=tuple(float(value) for value in config["std"]),
    )


def _finish(module: nn.Module, name: str, weights: Path | str | None, origin: str) -> LoadedModel:
    source: dict[str, Any] = {"kind": "timm", "name": name, "weights": origin}
    if weights == "random":
        source |= {"weights": "random", "weights_seed": RANDOM_WEIGHTS_SEED}
    elif weights is not None:
        source |= load_weights(module, Path(weights))
    num_classes = getattr(module, "num_classes", None)
    return LoadedModel(module, timm_preprocessing(module), name, source, num_classes)


def _check_known(name: str) -> None:
    import timm

    if timm.is_model(name):
        return
    architecture = name.partition(".")[0]
    near = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(match) for match in near)}?" if near else "list them with 'vitq models'"
    raise ModelError(
        f"timm has no model '{name}'; {hint} (a Hugging Face model is named 'owner/name', a local one by its folder)"
    )


def _check_pretrained(name: str, num_classes: int | None) -> None:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ModelError(
            f"timm has no pretrained weights for '{name}'; pass weights=FILE (--weights FILE), "
            "or weights='random' for a speed test"
        )
    if num_classes is not None and num_classes != config.num_classes:
        raise ModelError(
            f"the pretrained head of '{name}' has {config.num_classes} classes, so a head of {num_classes} "
            "would be untrained; pass your fine-tuned weights with weights=FILE (--weights FILE)"
        )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

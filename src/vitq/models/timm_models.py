"""timm as a source of models: by registry name, by hub id, or from a folder that timm saved."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from torch import nn

from vitq.errors import ModelError
from vitq.models.hub import download, reading
from vitq.models.loaded import LoadedModel
from vitq.models.preprocessing import Preprocessing
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import RANDOM_WEIGHTS_SEED, load_weights, seeded_weights

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
PRETRAINED_VALUES = (
    "architecture", "tag", "num_classes", "input_size", "fixed_input_size", "pool_size", "crop_pct", "crop_mode",
    "interpolation", "mean", "std", "first_conv", "classifier", "test_input_size", "test_crop_pct", "license",
)  # fmt: skip
MODEL_ARGUMENTS = frozenset({
    "act_layer", "attn_drop_rate", "class_token", "depth", "depths", "drop_path_rate", "drop_rate", "dynamic_img_pad",
    "dynamic_img_size", "embed_dim", "embed_dims", "embed_layer_norm", "fc_norm", "final_norm", "global_pool",
    "img_size", "in_chans", "init_values", "input_size", "mlp_ratio", "mlp_ratios", "no_embed_class", "norm_layer",
    "num_heads", "num_prefix_tokens", "out_chans", "patch_drop_rate", "patch_size", "pos_drop_rate", "pos_embed",
    "pre_norm", "pretrained_window_sizes", "proj_bias", "proj_drop_rate", "qk_norm", "qkv_bias", "ref_feat_shape",
    "reg_tokens", "rope_type", "scale_attn_norm", "scale_mlp", "sr_ratios", "strict_img_size", "swiglu_mlp",
    "use_abs_pos_emb", "use_fc_norm", "use_post_norm", "use_rel_pos", "use_rel_pos_bias", "use_rot_pos_emb",
    "use_shared_rel_pos_bias", "window_ratio", "window_size",
})  # fmt: skip


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
    on_hub = registry_name.startswith(HUB_PREFIXES)
    if not on_hub:
        _check_known(registry_name)
    if weights is None and not on_hub:
        _check_pretrained(registry_name, num_classes)

    with seeded_weights(), download(f"'{name}'"):
        module = timm.create_model(registry_name, pretrained=weights is None, **_given(num_classes=num_classes))
    return _finish(module, name, weights, "hub")


def load_timm_folder(folder: Path, weights: Path | str | None, num_classes: int | None) -> LoadedModel:
    """Build a model from a folder that timm saved: ``config.json`` with its architecture, and
    ``model.safetensors``.
    """
    ensure_torchvision()
    import timm

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = config["architecture"]
    if not isinstance(architecture, str):
        raise ModelError(f"folder '{folder}': config.json names the architecture {architecture!r}")
    _check_known(architecture)
    classes = num_classes if num_classes is not None else config.get("num_classes")
    with seeded_weights(), reading(f"folder '{folder}'"):
        module = timm.create_model(
            architecture,
            pretrained_cfg_overlay=_known_values(config.get("pretrained_cfg")),
            **_given(num_classes=classes, global_pool=config.get("global_pool")),
            **_model_arguments(config.get("model_args", {}), folder),
        )
    return _finish(module, folder.name, weights if weights is not None else folder / "model.safetensors", "folder")


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """Return the preprocessing in ``module.pretrained_cfg``; raise ModelError where that cannot be."""
    from timm.data import resolve_model_data_config

    with reading("the preprocessing in the model's pretrained_cfg"):
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
    num_classes = getattr(module, "num_classes", None) or None
    return LoadedModel(module, timm_preprocessing(module), name, source, num_classes)


def _model_arguments(arguments: Any, folder: Path) -> dict[str, Any]:
    """Return a folder's ``model_args``: numbers, names and lists of what a transformer is built of, nothing else.

    Others of ``timm.create_model`` read files (``checkpoint_path``), download, or take code.
    """
    if not isinstance(arguments, Mapping):
        raise ModelError(f"folder '{folder}': model_args of config.json is {arguments!r}, no table of arguments")
    for name, value in arguments.items():
        if name not in MODEL_ARGUMENTS or not _is_plain(value):
            raise ModelError(
                f"folder '{folder}': model_args of config.json has {name}={str(value)[:40]!r}, which vitq does not "
                f"pass on; it takes numbers and names for {', '.join(sorted(MODEL_ARGUMENTS))}: "
                "build the model in Python and give it as a module"
            )
    return dict(arguments)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) <= 65536)


def _known_values(config: Any) -> dict[str, Any] | None:
    """Return what a folder's ``pretrained_cfg`` says of images; its addresses and files are left out."""
    return {name: config[name] for name in PRETRAINED_VALUES if name in config} if isinstance(config, dict) else None


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

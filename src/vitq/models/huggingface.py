"""Hugging Face models of images: by hub id or local folder, wrapped to take a tensor and give their outputs."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitq.errors import ModelError
from vitq.models.heads import HEADS, Head, head_for, keeps_form, seeing_part, squashed
from vitq.models.hub import download, reading
from vitq.models.loaded import LoadedModel
from vitq.models.preprocessing import Preprocessing
from vitq.models.processors import (
    compare,
    load_processor,
    processor_preprocessing,
    processor_values,
    swaps_channels,
)
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import RANDOM_WEIGHTS_SEED, load_weights, seeded_weights

QUERIES = ("logits", "pred_boxes")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class LogitsOf(nn.Module):
    """A Hugging Face model as a function ``x_BCHW -> logits_BK``.

    ``bgr`` swaps RGB for models trained on BGR; ``output`` names the one of its outputs that is returned.
    """

    def __init__(self, model: nn.Module, bgr: bool = False, output: str = "logits") -> None:
        super().__init__()
        self.model = model
        self.bgr = bgr
        self.output = output

    def everything(self, x_BCHW: Tensor) -> Any:
        """Return all that the model returns."""
        return self.model(pixel_values=x_BCHW.flip(1) if self.bgr else x_BCHW, return_dict=True)

    def kept(self, result: Any) -> Any:
        """Return all of ``everything``; of a set predictor the classes and boxes of its queries alone.

        What detectors return beside is for their training, and holds numbers as large as floats can be (RT-DETR).
        """
        if isinstance(result, Mapping) and all(isinstance(result.get(name), Tensor) for name in QUERIES):
            return {name: result[name] for name in QUERIES}
        return result

    def outputs(self, x_BCHW: Tensor) -> Any:
        """Return what is ``kept`` of all that the model returns."""
        return self.kept(self.everything(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits (B, K), or what ``output`` names."""
        outputs = self.outputs(x_BCHW)
        return cast(Tensor, outputs[self.output] if isinstance(outputs, Mapping) else getattr(outputs, self.output))


def load_huggingface(
    name: str,
    weights: Path | str | None,
    num_classes: int | None,
    given: Preprocessing | None = None,
    task: str | None = None,
) -> LoadedModel:
    """Load the model at a hub id or in a local folder with ``config.json``, with the head that it was saved with.

    ``task`` asks for another head (``vitq.models.heads``). ``given`` replaces the preprocessing of its image processor,
    which is then not asked. Raises ModelError when transformers is missing, the model is none of images, its head is
    untrained, or its processor does what ``Preprocessing`` cannot say.
    """
    transformers = _transformers(name)
    local = Path(name).is_dir()
    changes = {} if num_classes is None else {"num_labels": num_classes}
    with seeded_weights(), reading(f"folder '{name}'") if local else download(f"'{name}' is no folder here and"):
        config = transformers.AutoConfig.from_pretrained(
            name, trust_remote_code=False, **(changes if weights is not None else {})
        )
        head = head_for(config, task, name)
        saved, kind = _saved_class(transformers, config)  # some doors, as that of backbones, open no folder
        own = kind if kind and head.loads(saved) else None
        if weights is None:
            model, report = _trained(own or getattr(transformers, head.auto), name)
            _check_trained(name, report, head.words)
        elif own:
            model = own._from_config(config)
        else:
            model = getattr(transformers, head.auto).from_config(config, trust_remote_code=False)
        if head.auto == "AutoModel" and hasattr(config, "vision_config"):
            model = seeing_part(model)
        classes = int(config.num_labels) if head.has_classes else None
    preprocessing, bgr = _preprocessing(transformers, name, config, given, head)
    if classes is not None and num_classes is not None and classes != num_classes:
        raise ModelError(f"'{name}' has {classes} classes, not {num_classes}; pass weights=FILE for another head")

    source: dict[str, Any] = {"kind": "huggingface", "name": Path(name).name if local else name}
    source["weights"] = "folder" if local else "hub"
    if weights == "random":
        source |= {"weights": "random", "weights_seed": RANDOM_WEIGHTS_SEED}
    elif weights is not None:
        source |= load_weights(model, Path(weights))
    return LoadedModel(LogitsOf(model, bgr=bgr), preprocessing, source["name"], source, classes)


def load_huggingface_whole(name: str) -> tuple[nn.Module, Preprocessing]:
    """Load a model of the class that it was saved as; ModelError where transformers has no such class."""
    transformers = _transformers(name)
    local = Path(name).is_dir()
    with reading(f"folder '{name}'") if local else download(f"'{name}' is no folder here and"):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        saved, kind = _saved_class(transformers, config)
        if kind is None:
            raise ModelError(f"'{name}' was saved as {saved!r}, which transformers does not have; give it as a module")
        model: nn.Module = kind.from_pretrained(name, dtype=torch.float32)
    return model.eval(), _preprocessing(transformers, name, config, None, HEADS[1])[0]


def run_on_images(model: nn.Module, x_BCHW: Tensor) -> Any:
    """Run a model on images alone; one of Hugging Face that takes words too on what it makes of images."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return model(x_BCHW)
    features = getattr(model, "get_image_features", None)
    return model(pixel_values=x_BCHW) if features is None else features(pixel_values=x_BCHW)


def _trained(kind: Any, name: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the model with its weights, and what did not fit."""
    model, report = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False)
    return model, report


def _saved_class(transformers: Any, config: Any) -> tuple[Any, Any]:
    """Return the name of the class that a model was saved as, and the class, None where transformers has none."""
    saved = next(iter(getattr(config, "architectures", None) or ()), None)
    kind = getattr(transformers, saved, None) if isinstance(saved, str) else None
    known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    return saved, kind if known else None


def _preprocessing(
    transformers: Any, name: str, config: Any, given: Preprocessing | None, head: Head
) -> tuple[Preprocessing, bool]:
    """What the image processor does, compared with itself, and whether it gives BGR."""
    has_file = any((Path(name) / file).exists() for file in PROCESSOR_FILES)
    try:
        with nullcontext() if Path(name).is_dir() else download(f"the image processor of '{name}'"):
            processor = load_processor(transformers, name, has_file)
    except ModelError:
        if given is None:
            raise
        processor = None
    if processor is None:
        return given or assumed_preprocessing(config), False
    values = processor_values(processor)
    bgr = swaps_channels(values)
    if given is None and head.may_squash and keeps_form(values):
        return replace(processor_preprocessing(squashed(values, config)), assumed=True), bgr
    if given is None:
        given = processor_preprocessing(values)
        compare(processor, given, bgr)
    return given, bgr


def assumed_preprocessing(config: Any) -> Preprocessing:
    """Return ImageNet's preprocessing at the size that a Hugging Face configuration names, marked as
    assumed.
    """
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else [224, 224]
    return Preprocessing(input_size=(3, sides[0], sides[-1]), assumed=True)


def _transformers(name: str) -> Any:
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"'{name}' is a Hugging Face model: pip install 'vitq[hf]'") from error
    return transformers


def _check_trained(name: str, report: Mapping[str, Any], words: str) -> None:
    untrained = sorted(str(key) for key in report.get("missing_keys", ())) + sorted(
        str(key) for key in report.get("mismatched_keys", ())
    )
    if untrained:
        raise ModelError(
            f"'{name}' has no trained weights for {', '.join(untrained[:5])}: it is not a finished {words}; choose a "
            "fine-tuned one, pass weights=FILE (--weights FILE), or name another task (--task features)"
        )

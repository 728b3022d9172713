"""What ``vitq.evaluate`` does with its arguments: an artifact beside the model that it was made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.artifact.schema import ArtifactConfig
from vitq.data import load_labelled, open_images
from vitq.errors import ArtifactError
from vitq.evaluation import measure
from vitq.evaluation.beside import Beside, beside
from vitq.evaluation.outcomes import Watch
from vitq.model import QuantizedModel
from vitq.models import LoadedModel, Preprocessing
from vitq.quantizers import use_compiled_kernels, worth_compiling
from vitq.run.events import Events
from vitq.run.inputs import load_source, settle_for


def evaluate_beside(
    model: QuantizedModel,
    original: bool | str | Path | nn.Module | LoadedModel,
    images: Any,
    *,
    weights: str | Path | None,
    limit: int | None,
    batch_size: int,
    integer: bool,
    task: str | None,
    workers: int | None,
    progress: bool,
) -> Beside:
    """Measure the original, then the quantized model, on the same images; arguments and errors as of ``vitq.evaluate``.

    Raises ArtifactError where the original is not the model that the artifact was made of.
    """
    config = model.config
    preprocessing = Preprocessing.from_dict(config.preprocessing)
    given = _named(config) if isinstance(original, bool) else original
    own = config.source.get("num_classes") if weights is not None else None
    loaded = load_source(str(given) if isinstance(given, Path) else given, weights, own, preprocessing, config.task)
    require_original(config, loaded)
    source = open_images(images)
    total = len(source) if limit is None else min(limit, len(source))
    name = task or config.task
    with Events(console=progress) as events:
        loaded = settle_for(source, loaded, events.warn)

        def measured(forward: Any, label: str, reference: Any, warn: bool) -> Any:
            watch = Watch(name)
            batches = load_labelled(
                source,
                preprocessing,
                limit,
                batch_size=batch_size,
                num_classes=config.source.get("num_classes"),
                workers=workers,
                **({"warn": events.warn} if warn else {"warn": lambda *_: None}),
            )
            with events.task(f"evaluate {label}", total, unit="images") as bar, torch.no_grad():
                found = measure(
                    watch.forward(forward), watch.batches(batches), model.device, reference, bar.advance, task=name
                )
            return *found, watch.outcomes()

        module = loaded.module.to(model.device)
        floating, reference, theirs = measured(module, "floating point", None, True)
        with use_compiled_kernels(worth_compiling(total, preprocessing.input_size)):
            metrics, _, mine = measured(model.integer() if integer else model, "quantized", reference, False)
    return beside(metrics, mine, floating, theirs)


def require_original(config: ArtifactConfig, loaded: LoadedModel) -> None:
    """Raise ArtifactError where ``loaded`` has other weights than the model that an artifact was made of."""
    made, found = config.source.get("sha256"), loaded.source.get("sha256")
    if made is not None and made != found:
        raise ArtifactError(
            f"{loaded.name} is not the model that this artifact was made of ({config.source.get('name')}): its weights "
            "are others; give those with --weights"
        )


def _named(config: ArtifactConfig) -> str:
    """Return the name of the original; ArtifactError where it cannot be loaded by name alone."""
    source: Mapping[str, Any] = config.source
    name = source.get("name")
    if source.get("kind") not in ("timm", "huggingface") or not name:
        raise ArtifactError("this artifact was made of a module, which no name loads: give that module as the baseline")
    return str(name)

"""Public verbs that make a quantized model, and accept an edit of its files."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from vitq.arguments import BITS_OR_TABLE, checked
from vitq.artifact.artifact import seal as seal_files
from vitq.bits import Bits, BitTable
from vitq.errors import ArgumentError
from vitq.model import QuantizedModel
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.recipes.auto import AUTO
from vitq.verbs.inside import quantize_inside
from vitq.verbs.quantize import quantize_whole


@checked(bits=BITS_OR_TABLE)
@in_own_modes
def quantize(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    recipe: str | Path = AUTO,
    bits: str | Path | Bits | BitTable = "w8a8",
    fit_mb: float | None = None,
    within: float | None = None,
    budget: str = "quick",
    scope: str | None = None,
    target: str | None = None,
    cpu: str = "any",
    task: str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int = 1000,
    views: int = 1,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    validation: Any = None,
    inside: str | None = None,
    progress: bool = True,
) -> QuantizedModel:
    """Quantize a pretrained vision transformer with a few hundred unlabeled images.

    * ``model``: a timm name, a Hugging Face id or folder, or a module x_BCHW -> logits_BK, which is not changed. It may
      return other tensors, or several, which are kept by name.
    * ``images``: a folder, an ``.npz``, a preprocessed tensor x_NCHW or an iterable; ``validation`` likewise, with
      labels. Without images "synthetic" makes some from the model alone (PSAQ-ViT), and "noise" is the last resort.
    * ``recipe``: a name or a .yaml file. "auto" is "repq", calibration, at 6 bits and more, and "mgrq", training,
      below.
    * ``bits``: such as "w4a4", or a bit table or its .yaml file (``vitq.allocate``).
    * ``fit_mb``, ``within``: a result instead of ``bits``: at most so many megabytes of stored tensors, at most so many
      percent of the score expected to be lost. The bits of each site are then chosen as by ``vitq.allocate``.
    * ``scope``: "paper", "deploy" or "full", by default the recipe's ("paper" where it has none).
    * ``target``: calibrates for a target of ``QuantizedModel.export``, whose default scope is "deploy". A run at 6 bits
      and more that leaves recipe, scope and target open is for "onnxruntime". ``cpu``: the x86 CPUs that its files are
      for; weights beside 8-bit activations get 7 bits for "any", and keep 8 for "vnni" (docs/export.md).
    * ``task``: the meaning of the outputs, where it is not certain (docs/tasks.md).
    * ``overrides``: recipe options, such as {"reconstruct.steps": 500}; they come last.
    * ``out``: the run is checkpointed there and its artifact saved. ``resume`` goes on after a kill, ``overwrite``
      replaces an artifact or checkpoints.
    * ``inside``: the path of a part of a larger model. That part is quantized on the inputs that it receives, and a
      module to put in its place is returned (docs/tasks/inside.md).

    Raises a VitqError that names the fault of model, images, recipe or folder.
    """
    run: partial[QuantizedModel] = partial(
        quantize_whole,
        recipe=recipe,
        bits=bits,
        fit_mb=fit_mb,
        within=within,
        budget=budget,
        scope=scope,
        target=target,
        cpu=cpu,
        views=views,
        overrides=overrides or {},
        seed=seed,
        device=device,
        out=out,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    if inside is not None:
        if weights is not None or num_classes is not None or validation is not None:
            raise ArgumentError("weights, num_classes and validation are of whole models; leave them out with inside")
        return cast(QuantizedModel, quantize_inside(model, images, inside, run, preprocessing, limit, task))
    return run(
        model,
        images,
        weights=weights,
        num_classes=num_classes,
        preprocessing=preprocessing,
        limit=limit,
        task=task,
        validation=validation,
    )


@checked()
@in_own_modes
def seal(path: str | Path) -> tuple[str, ...]:
    """Seal an artifact anew after an edit of its files, and return the names of those that were not sealed as they are.

    Everything but the hashes is checked as ``vitq.load`` does; ArtifactError where the files do not fit together.
    """
    return seal_files(Path(path))

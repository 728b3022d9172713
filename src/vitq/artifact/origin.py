"""What an artifact says about how it was made."""

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import torch

from vitq._version import __version__
from vitq.artifact.schema import ArtifactConfig
from vitq.bits import Bits
from vitq.models import LoadedModel


def describe_run(
    loaded: LoadedModel, x_NCHW: torch.Tensor, recipe: Mapping[str, Any], bits: Bits, scope: str, seed: int
) -> ArtifactConfig:
    """Return the configuration of a run before its work: all inputs that its result depends on, and no sites yet."""
    return ArtifactConfig(
        source={**loaded.source, "name": loaded.name},
        preprocessing=loaded.preprocessing.to_dict(),
        bits=str(bits),
        scope=scope,
        recipe=dict(recipe),
        seed=seed,
        calibration={"images": len(x_NCHW), "sha256": hashlib.sha256(x_NCHW.numpy().tobytes()).hexdigest()},
        versions={"vitq": __version__, "torch": torch.__version__, "python": platform.python_version()},
        sites={},
        task=loaded.task,
    )

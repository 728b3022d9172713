"""What a run takes where nobody chose: the best measured recipe for its bits, and a target for the first run.

Calibration at 6 bits and more, training below: benchmarks/settings.md has both. A run that chooses nothing but a model
and images is calibrated for ONNX Runtime, so that its file is exact and fast where ``vitq export`` writes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitq.bits import Bits, BitTable
from vitq.recipes.overrides import flat

AUTO = "auto"
CALIBRATION, TRAINING = "repq", "mgrq"
ENOUGH = 6
"""Bits of weights and of activations from which on calibration alone is level with training."""

TARGET = "onnxruntime"
"""The default of ``vitq export``."""


def lowest(bits: Bits | BitTable) -> int:
    """Return the fewest bits that any site is asked to have."""
    base = bits if isinstance(bits, Bits) else bits.base
    sites = () if isinstance(bits, Bits) else tuple(bits.sites.values())
    return min(base.weights, base.activations, *sites)


def choose(
    recipe: str | Path, bits: Bits | BitTable, scope: str | None, target: str | None, overrides: Mapping[str, Any]
) -> tuple[str | Path, str | None]:
    """Return the recipe and the target of a run: those that were given, and for ``auto`` what fits the bits.

    A target is added for calibration only, and only where neither a scope nor the bits of single sites are given,
    which another scope may not have.
    """
    if recipe != AUTO:
        return recipe, target
    if lowest(bits) < ENOUGH:
        return TRAINING, target
    scoped = scope is not None or any(key.startswith("insert.") for key in flat(overrides))
    return CALIBRATION, TARGET if target is None and not scoped and isinstance(bits, Bits) else target

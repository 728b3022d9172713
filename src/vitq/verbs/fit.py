"""A result instead of a setting: bits by site that fit a size, or that lose no more than a share of the score."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape

from vitq.allocation import Allocation
from vitq.allocation.result import candidates_of, limits_of
from vitq.allocation.run import Request, allocate_anew
from vitq.bits import Bits, BitTable
from vitq.errors import ArgumentError
from vitq.export.targets import profile_for
from vitq.models import LoadedModel
from vitq.recipes.auto import CALIBRATION
from vitq.recipes.for_target import recipe_for
from vitq.report.units import size
from vitq.run.events import Events

FOLDER = "bits"
"""Where trials and table are kept, in the folder of a run."""
TRIAL_IMAGES = 64
ANY = "w8a8"
"""Default bits of ``vitq.quantize``: what a goal chooses where no others are given."""


@dataclass(frozen=True)
class Goal:
    """What is asked of a run: at most ``fit_mb`` megabytes of stored tensors, at most ``within`` percent lost."""

    fit_mb: float | None = None
    within: float | None = None

    @classmethod
    def of(cls, fit_mb: float | None, within: float | None, bits: object) -> "Goal | None":
        """Return the goal, None where there is none; ArgumentError where bits are given too."""
        if fit_mb is None and within is None:
            return None
        if str(bits).strip().lower() != ANY:
            raise ArgumentError("fit_mb and within choose the bits: leave bits out")
        return cls(fit_mb, within)

    def table(
        self,
        loaded: LoadedModel,
        x_NCHW: torch.Tensor,
        *,
        budget: str,
        scope: str | None,
        target: str | None,
        cpu: str,
        seed: int,
        device: torch.device,
        folder: Path | None,
        overwrite: bool,
        events: Events,
    ) -> BitTable:
        """Choose the bits as ``vitq.allocate`` does, and say what is expected of them.

        Trials run on the first images, with the calibration of recipe repq. AllocationError names the nearest that can
        be had where nothing meets the goal.
        """
        limits = limits_of(None, self.fit_mb, None, self.within)
        widths = candidates_of(None, limits, self.within)
        base = "w4a4" if min(widths) < 8 else "w8a8"
        request = Request(limits, "program", "output", False, {}, widths, 1, self.within, profile_for(target, cpu))
        plan = recipe_for(CALIBRATION, budget, scope, target, {})
        place = None if folder is None else folder / FOLDER
        x_trials = x_NCHW[:TRIAL_IMAGES]
        found = allocate_anew(loaded, x_trials, plan, Bits.parse(base), request, place, overwrite, seed, device, events)
        if place is not None:
            found.save(place)
        events.show(escape(told(found)))
        return found.table


def told(found: Allocation) -> str:
    """Return one line on what was chosen."""
    loss = found.expected_loss
    lost = "" if loss is None else f", expected to lose {loss:.2g} % of the score"
    floating = f", {len(found.floating)} of {len(found.bits)} sites in floating point" if found.floating else ""
    return f"chosen: {found.label}, {size(found.point.size_bytes)} of tensors{floating}{lost}"

"""The two ways to an allocation: from a model and images, and from the trials that a folder holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vitq.allocate import Search, Sensitivities
from vitq.allocate.problem import Choice
from vitq.allocation.files import known_sensitivities, read_sensitivities, write_sensitivities
from vitq.allocation.for_target import candidates_for
from vitq.allocation.prepare import measure, measurer, prepare
from vitq.allocation.result import MEASURING, Allocation, decide
from vitq.artifact.origin import describe_run
from vitq.bits import Bits
from vitq.export.targets import Profile
from vitq.models import LoadedModel
from vitq.recipes import ResolvedRecipe
from vitq.recipes.for_target import scopes_of
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.run.inputs import start_run


@dataclass(frozen=True)
class Request:
    """What is wanted of an allocation."""

    limits: Mapping[str, float]
    solver: str
    by: str
    pairs: bool
    keep: Mapping[str, int]
    candidates: tuple[int, ...]
    trials: int
    within: float | None = None
    profile: Profile | None = None
    """Of the target, None without one."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The candidates, and what weights get in place of some of them on the target."""
        return self.candidates if self.profile is None else candidates_for(self.candidates, self.profile)


def allocate_from(folder: Path, request: Request, seed: int, events: Events) -> Allocation:
    """Answer ``request`` from the trials in ``folder``."""
    return _decided(read_sensitivities(folder), request, None, seed, events)


def allocate_anew(
    loaded: LoadedModel,
    x_NCHW: torch.Tensor,
    plan: ResolvedRecipe,
    bits: Bits,
    request: Request,
    folder: Path | None,
    overwrite: bool,
    seed: int,
    device: torch.device,
    events: Events,
) -> Allocation:
    """Run the trials, or those that ``folder`` lacks, and answer ``request``."""
    about = {
        **describe_run(loaded, x_NCHW, plan.to_dict(), bits, "+".join(scopes_of(plan)), seed).model_dump(mode="json"),
        "candidates": list(request.candidates),
        "measures": "proxy" if request.by == "proxy" else "all",
        **({} if request.profile is None else {"target": request.profile.name, "narrow": request.profile.narrow}),
    }
    found = None if folder is None or overwrite else known_sensitivities(folder, about)
    measuring = request.solver in MEASURING
    if found is not None and not measuring:
        return _decided(found, request, None, seed, events)
    checkpoints = None if folder is None else folder / "checkpoints"
    saved = Checkpoints(checkpoints, about, resume=not overwrite, overwrite=overwrite)
    run = start_run(loaded, x_NCHW, bits, plan.name, seed=seed, device=device, events=events, checkpoints=saved)
    only_weights = frozenset(request.widths).difference(request.candidates)
    prepared = prepare(run, plan, request.widths, request.profile, only_weights)
    if found is None:
        found = measure(
            run,
            prepared,
            request.widths,
            about,
            proxy_only=request.by == "proxy",
            checkpoints=saved,
            target=None if request.profile is None else request.profile.name,
        )
        if folder is not None:
            write_sensitivities(folder, found)
    real = measurer(prepared, run, request.widths) if measuring else None
    return _decided(found, request, real, seed, events)


def _decided(
    found: Sensitivities, request: Request, real: Callable[[Choice], float] | None, seed: int, events: Events
) -> Allocation:
    return decide(
        found,
        request.limits,
        solver=request.solver,
        by=request.by,
        pairs=request.pairs,
        keep=request.keep,
        within=request.within,
        search=Search(real, request.trials, seed),
        events=events,
    )

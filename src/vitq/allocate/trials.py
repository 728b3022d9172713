"""The trials behind sensitivities: one site at a time at each candidate, everything else in floating point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from vitq.allocate.distance import OutputDistance, relative_error
from vitq.allocate.fisher import projected, unit_gradients
from vitq.allocate.simulation import Simulation
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events

MEASURES = ("output", "feature", "proxy")


@dataclass(frozen=True)
class Trials:
    """What the trials gave: per measure an array (sites, bits), and the probes (sites, bits, draws x images)."""

    measures: Mapping[str, np.ndarray]
    probes_SBD: np.ndarray


@dataclass(frozen=True)
class _Reference:
    """The model in floating point: its outputs, its penultimate feature, gradients at every unit's end."""

    distance: OutputDistance
    feature_N: torch.Tensor
    gradients: list[torch.Tensor]


def run_trials(
    simulation: Simulation,
    sites: Sequence[str],
    bits: Sequence[int],
    images_NCHW: torch.Tensor,
    *,
    proxy_only: bool,
    seed: int,
    checkpoints: Checkpoints,
    events: Events,
) -> Trials:
    """Measure every site of ``sites`` alone at every one of ``bits``.

    A trial runs the site's own unit on the activations that the model has there in floating point, then the rest of
    the model without a quantizer: nothing before the unit is computed again, and only one unit's activations are kept.
    With ``proxy_only`` the rest is not run either. What a site's trials gave is kept in ``checkpoints``.
    """
    kept = {site: checkpoints.load(site) for site in sites}
    found = {site: saved[0]["measured"] for site, saved in kept.items() if saved is not None}
    with events.task("trials", len(sites) * len(bits)) as task:
        task.advance(len(found) * len(bits))
        if len(found) < len(sites):
            reach: dict[int, list[tuple[str, int]]] = {}
            for site in (site for site in sites if site not in found):
                first, last = simulation.reach(site)
                reach.setdefault(first, []).append((site, last))
            reference = _reference(simulation, images_NCHW, seed)
            boundary = images_NCHW.to(simulation.device)
            for unit in range(max(reach) + 1):
                trials: dict[int, _Trial] = {}
                for site, last in reach.get(unit, ()):
                    if last not in trials:
                        simulation.set({})
                        trials[last] = _Trial(simulation, reference, boundary, len(images_NCHW), unit, last, proxy_only)
                    trial, rows = trials[last], []
                    for width in bits:
                        simulation.set({site: width})
                        rows.append(trial.measured())
                        task.advance(1, site=site)
                    found[site] = torch.stack(rows)
                    checkpoints.save(site, {"measured": found[site]})
                simulation.set({})
                boundary = simulation.run(simulation.part(unit, unit)[0], boundary, len(images_NCHW))[0]
    simulation.set({})
    all_SBM = torch.stack([found[site] for site in sites]).double().numpy()
    wanted = ("proxy",) if proxy_only else MEASURES
    return Trials(
        {name: all_SBM[..., MEASURES.index(name)] for name in wanted}, all_SBM[..., len(MEASURES) :].astype(np.float64)
    )


@dataclass(frozen=True)
class Whole:
    """Measures whole choices on some images."""

    simulation: Simulation
    images_NCHW: torch.Tensor
    distance: OutputDistance

    @classmethod
    def on(cls, simulation: Simulation, images_NCHW: torch.Tensor) -> "Whole":
        """Compare with floating point on ``images_NCHW``."""
        simulation.set({})
        reference_N = simulation.run(simulation.graph.module, images_NCHW, len(images_NCHW))[0]
        return cls(simulation, images_NCHW, OutputDistance(reference_N))

    def __call__(self, bits: Mapping[str, int]) -> float:
        """Return the distance of the model at ``bits``."""
        self.simulation.choose(bits)
        outputs_N = self.simulation.run(self.simulation.graph.module, self.images_NCHW, len(self.images_NCHW))[0]
        self.simulation.set({})
        return self.distance(outputs_N)


def _reference(simulation: Simulation, images_NCHW: torch.Tensor, seed: int) -> _Reference:
    simulation.set({})
    whole = simulation.graph.segment(simulation.units[0].start, simulation.units[-1].end, (simulation.graph.feature,))
    outputs_N, feature_N = simulation.run(whole, images_NCHW, len(images_NCHW))
    distance = OutputDistance(outputs_N)
    return _Reference(distance, feature_N, unit_gradients(simulation, images_NCHW, distance, seed))


class _Trial:
    """Units ``first`` to ``last`` with whatever is switched on, then the rest of the model without anything."""

    def __init__(
        self,
        simulation: Simulation,
        reference: _Reference,
        boundary: torch.Tensor,
        images: int,
        first: int,
        last: int,
        proxy_only: bool,
    ) -> None:
        self.simulation, self.reference = simulation, reference
        self.boundary, self.images, self.last = boundary, images, last
        self.own, self.own_feature = simulation.part(first, last)
        ends = last == len(simulation.units) - 1
        self.rest: fx.GraphModule | None = None
        self.rest_feature = False
        if not ends and not proxy_only:
            self.rest, self.rest_feature = simulation.part(last + 1, len(simulation.units) - 1)
        self.complete = ends or not proxy_only
        self.floating_N = simulation.run(self.own, boundary, images)[0]

    def measured(self) -> torch.Tensor:
        """Return the measures, then the probes; those that need the rest of the model are NaN without it."""
        results = self.simulation.run(self._forward, self.boundary, self.images)
        end_N = results[0]
        probes = projected(self.reference.gradients[self.last], end_N - self.floating_N)
        output = feature = float("nan")
        if self.complete:
            output = self.reference.distance(results[1])
            feature = relative_error(results[2], self.reference.feature_N) if len(results) > 2 else 0.0
            feature = feature or relative_error(results[1], self.reference.distance.reference_N)
        proxy = 0.5 * float(probes.square().mean())
        return torch.cat((torch.tensor([output, feature, proxy]), probes))

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the end of the own units, the model's output and, where it comes behind them, its feature."""
        own = self.own(x)
        end, *tap = own if isinstance(own, tuple) else (own,)
        if self.rest is None:
            return (end, end, *tap)
        rest = self.rest(end)
        output, *later = rest if isinstance(rest, tuple) else (rest,)
        return (end, output, *(later or tap))

"""The trials behind sensitivities: one site at a time at each candidate, everything else in floating point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vitq.allocate.distance import OutputDistance
from vitq.allocate.fisher import projected, unit_gradients
from vitq.allocate.simulation import Simulation
from vitq.bits import FLOATING_POINT
from vitq.errors import AllocationError
from vitq.graph.outputs import Outputs, as_outputs
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.tasks import Task
from vitq.tasks.distances import relative_square

MEASURES = ("output", "feature", "proxy")
MEASURED, POINTS = "measured", "points"
"""Tensors of a checkpoint."""


@dataclass(frozen=True)
class Trials:
    """What the trials gave: per measure an array (sites, bits), and the probes (sites, bits, draws x images).

    ``points`` (sites, bits): the expected loss of the task's score in percent, None where it has none.
    """

    measures: Mapping[str, np.ndarray]
    probes_SBD: np.ndarray
    points: np.ndarray | None = None


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
    task: Task,
    *,
    proxy_only: bool,
    seed: int,
    checkpoints: Checkpoints,
    events: Events,
    allowed: Mapping[str, Sequence[int]] | None = None,
) -> Trials:
    """Measure every site of ``sites`` alone at every one of ``bits``, or of those that ``allowed`` names for it.

    Measures of bits that a site may not get are NaN.

    A trial runs the site's own unit on the activations that the model has there in floating point, then the rest of
    the model without a quantizer: nothing before the unit is computed again, and only one unit's activations are kept.
    With ``proxy_only`` the rest is not run either. What a site's trials gave is kept in ``checkpoints``. The proxy sees
    errors at the ends of units alone, so a model with an output that branches off elsewhere has none; AllocationError
    where it is all that is wanted.
    """
    ends = {span.end for span in simulation.units}
    branches = [name for name, node in simulation.graph.slicing.outputs.items() if node not in ends]
    if branches and proxy_only:
        raise AllocationError(
            f"output '{branches[0]}' branches off where the proxy sees no error; take 'output' instead"
        )
    kept = {site: checkpoints.load(site) for site in sites}
    found = {site: saved[0] for site, saved in kept.items() if saved is not None and POINTS in saved[0]}
    own_bits = {site: bits if allowed is None else allowed.get(site, bits) for site in sites}
    with events.task("trials", sum(map(len, own_bits.values()))) as bar:
        bar.advance(sum(len(own_bits[site]) for site in found))
        if len(found) < len(sites):
            reach: dict[int, list[tuple[str, int]]] = {}
            for site in (site for site in sites if site not in found):
                first, last = simulation.reach(site)
                reach.setdefault(first, []).append((site, last))
            reference = _reference(simulation, images_NCHW, task, seed)
            boundary = images_NCHW.to(simulation.device)
            for unit in range(max(reach) + 1):
                trials: dict[int, _Trial] = {}
                for site, last in reach.get(unit, ()):
                    if last not in trials:
                        simulation.set({})
                        trials[last] = _Trial(simulation, reference, boundary, len(images_NCHW), unit, last, proxy_only)
                    trial, rows = trials[last], []
                    for width in bits:
                        if width not in own_bits[site]:
                            rows.append(trial.untried)
                            continue
                        simulation.set({site: width})
                        rows.append(trial.measured() if width != FLOATING_POINT else trial.nothing)
                        bar.advance(1, site=site)
                    measured, points = (torch.stack(part) for part in zip(*rows, strict=True))
                    found[site] = {MEASURED: measured, POINTS: points}
                    checkpoints.save(site, found[site])
                simulation.set({})
                span = simulation.units[unit]
                boundary = simulation.run(simulation.graph.segment(span.start, span.end), boundary, len(images_NCHW))[0]
    simulation.set({})
    all_SBM = torch.stack([found[site][MEASURED] for site in sites]).double().numpy()
    points_SB = torch.stack([found[site][POINTS] for site in sites]).double().numpy()
    wanted = ("proxy",) if proxy_only else MEASURES[:2] if branches else MEASURES
    return Trials(
        {name: all_SBM[..., MEASURES.index(name)] for name in wanted},
        all_SBM[..., len(MEASURES) :].astype(np.float64),
        None if np.isnan(points_SB).all() else points_SB,
    )


@dataclass(frozen=True)
class Whole:
    """Measures whole choices on some images."""

    simulation: Simulation
    images_NCHW: torch.Tensor
    distance: OutputDistance

    @classmethod
    def on(cls, simulation: Simulation, images_NCHW: torch.Tensor, task: Task) -> "Whole":
        """Compare with floating point on ``images_NCHW``."""
        simulation.set({})
        return cls(simulation, images_NCHW, OutputDistance(task, _outputs(simulation, images_NCHW)))

    def __call__(self, bits: Mapping[str, int]) -> float:
        """Return the distance of the model at ``bits``."""
        self.simulation.choose(bits)
        outputs = _outputs(self.simulation, self.images_NCHW)
        self.simulation.set({})
        return self.distance(outputs)


def _outputs(simulation: Simulation, images_NCHW: torch.Tensor) -> Outputs:
    """Return what the model gives, by name, with whatever is switched on."""
    module = simulation.graph.module
    tensors = simulation.run(lambda x: tuple(as_outputs(module(x)).values()), images_NCHW, len(images_NCHW))
    return dict(zip(simulation.graph.slicing.outputs, tensors, strict=True))


def _reference(simulation: Simulation, images_NCHW: torch.Tensor, task: Task, seed: int) -> _Reference:
    simulation.set({})
    first, last = simulation.units[0], simulation.units[-1]
    names = simulation.outputs_behind(first.start)
    whole = simulation.graph.segment(first.start, last.end, (simulation.graph.feature, *names.values()))
    _, feature_N, *outputs_N = simulation.run(whole, images_NCHW, len(images_NCHW))
    distance = OutputDistance(task, dict(zip(names, outputs_N, strict=True)))
    return _Reference(distance, feature_N, unit_gradients(simulation, images_NCHW, distance, seed))


class _Trial:
    """The model from unit ``first`` on with whatever is switched on, and what it gives where unit ``last`` ends.

    ``boundary_N`` is what unit ``first`` reads in floating point, for ``images`` images. With ``proxy_only`` it stops
    at the end of unit ``last``.
    """

    def __init__(
        self,
        simulation: Simulation,
        reference: _Reference,
        boundary_N: torch.Tensor,
        images: int,
        first: int,
        last: int,
        proxy_only: bool,
    ) -> None:
        self.simulation, self.reference = simulation, reference
        self.boundary_N, self.images = boundary_N, images
        graph, start, end = simulation.graph, simulation.units[first].start, simulation.units[last].end
        nodes = {} if proxy_only else simulation.outputs_behind(start)
        self.names = tuple(nodes)
        before = proxy_only or simulation.place[graph.feature] <= simulation.place[start]
        self.feature = () if before else (graph.feature,)
        self.module = graph.segment(start, end, (*self.feature, *nodes.values()))
        self.gradients_DNE = reference.gradients[last].float()
        self.floating_N = simulation.run(graph.segment(start, end), boundary_N, images)[0]

    def measured(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the measures with the probes behind them, and the expected loss of the task's score in percent.

        Those that need the rest of the model are NaN without it.
        """
        end_N, *taps = self.simulation.run(self.module, self.boundary_N, self.images)
        probes = projected(self.gradients_DNE, end_N - self.floating_N)
        output = feature = points = float("nan")
        if self.names:
            feature_N, outputs_N = taps[: len(self.feature)], taps[len(self.feature) :]
            outputs = dict(zip(self.names, outputs_N, strict=True))
            output, points = self.reference.distance(outputs), self.reference.distance.points(outputs)
            moved = [float(relative_square(y, self.reference.feature_N)) for y in feature_N]
            feature = sum(moved) or self.reference.distance.error(outputs)
        proxy = 0.5 * float(probes.square().mean())
        return torch.cat((torch.tensor([output, feature, proxy]), probes)), torch.tensor(points)

    @property
    def nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What ``measured`` returns of a site in floating point, which moves nothing."""
        measures = torch.zeros(len(MEASURES))
        measures[:2] = 0.0 if self.names else float("nan")
        points = self.reference.distance.points({}) if self.names else float("nan")
        return torch.cat((measures, self._no_probes)), torch.tensor(points)

    @property
    def untried(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What stands for bits that are not measured."""
        measures = torch.full((len(MEASURES),), float("nan"))
        return torch.cat((measures, self._no_probes)), torch.tensor(float("nan"))

    @property
    def _no_probes(self) -> torch.Tensor:
        return torch.zeros(self.gradients_DNE.shape[0] * self.gradients_DNE.shape[1])

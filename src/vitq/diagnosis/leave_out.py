"""How much each site costs: everything is quantized, and one site, or one role, is left in floating point in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vitq.allocate.simulation import Simulation
from vitq.allocate.trials import Whole
from vitq.graph import Graph
from vitq.run.events import Events
from vitq.tasks import Task


@dataclass(frozen=True)
class LeftOut:
    """Distances of the outputs from floating point: ``all`` quantized, and without each site and each role.

    They are those of ``vitq.allocate.OutputDistance``: of logits KL in nats, of others relative squared errors.
    """

    all: float
    sites: Mapping[str, float]
    roles: Mapping[str, float]

    def gain(self, name: str) -> float:
        """Return the share of the whole distance that goes where a site or a role stays in floating point."""
        left = self.sites[name] if name in self.sites else self.roles[name]
        return (self.all - left) / self.all if self.all > 0 else 0.0


@torch.no_grad()
def leave_out(
    simulation: Simulation, bits: Mapping[str, int], images_NCHW: torch.Tensor, task: Task, events: Events
) -> LeftOut:
    """Measure the model at ``bits`` without each of its sites, and without all sites of each role. Source: vitq.

    What stands before a site's unit is the same with and without it: it runs once. Outputs that do not follow from
    the unit are those of the whole quantized model.
    """
    graph, images = simulation.graph, len(images_NCHW)
    whole = Whole.on(simulation, images_NCHW, task)
    roles = {str(graph.sites[site].role) for site in bits}
    first, end = simulation.units[0], simulation.units[-1].end
    with events.task("leave out", len(bits) + len(roles)) as bar:
        simulation.choose(bits)
        total = dict(_outputs(simulation, graph, first.start, end, images_NCHW, images))
        distance = whole.distance(total)
        own: dict[str, float] = {}
        boundary = images_NCHW.to(simulation.device)
        for place, unit in enumerate(simulation.units):
            for site in [site for site in bits if simulation.reach(site)[0] == place]:
                simulation.choose({name: width for name, width in bits.items() if name != site})
                behind = _outputs(simulation, graph, unit.start, end, boundary, images)
                own[site] = whole.distance({**total, **behind})
                bar.advance(1, site=site)
            simulation.choose(bits)
            boundary = simulation.run(graph.segment(unit.start, unit.end), boundary, images)[0]
        by_role = {}
        for role in sorted(roles):
            by_role[role] = whole({n: width for n, width in bits.items() if str(graph.sites[n].role) != role})
            bar.advance(1, site=role)
    simulation.set({})
    return LeftOut(distance, {site: own[site] for site in bits}, by_role)


def _outputs(
    simulation: Simulation, graph: Graph, start: str, end: str, x_N: torch.Tensor, images: int
) -> dict[str, torch.Tensor]:
    """Return the outputs that follow from node ``start``, whose tensor is ``x_N``."""
    names = simulation.outputs_behind(start)
    nodes: Sequence[str] = tuple(names.values())
    _, *found = simulation.run(graph.segment(start, end, nodes), x_N, images)
    return dict(zip(names, found, strict=True))

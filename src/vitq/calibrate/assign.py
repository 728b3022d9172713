"""Calibrate one group of sites: first each tensor on its own, then by the layer's output in alternation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vitq.calibrate.candidates import Grid, Target
from vitq.calibrate.groups import Group, input_matrix, weight_matrix
from vitq.calibrate.output_search import STEPS, product_score, weight_score
from vitq.calibrate.samples import rows_of
from vitq.calibrate.searches import SEARCHES, Steps, local_search
from vitq.graph import Role, Site
from vitq.quantizers import Granularity, Quantizer, parameter_shape

MAX_TOKENS = 1024
"""Rows on which an activation's candidates are compared by the layer's output."""

MAX_OPERANDS = 1 << 20
"""Elements of a matmul operand that an output search looks at."""


@dataclass(frozen=True)
class Member:
    """One site of a group: its tensor, and its quantizer if it has one."""

    site: Site
    x: torch.Tensor
    quantizer: Quantizer | None

    @property
    def target(self) -> Target:
        """What to search for."""
        assert self.quantizer is not None
        free = self.site.role is Role.POST_NORM and self.quantizer.format.granularity is Granularity.CHANNEL
        return Target(self.quantizer.format, anchored=not free)

    def simulated(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as the quantizer leaves it."""
        return x if self.quantizer is None else self.quantizer(x)

    def assign(self, grid: Grid) -> None:
        """Set the quantizer's parameters from a grid of one candidate."""
        assert self.quantizer is not None
        scale, zero = grid.shaped(*parameter_shape(self.x.shape, self.quantizer.axis))
        zeros = {} if zero is None else {"zero_point": zero}
        self.quantizer.set_parameters(scale=scale, **zeros)

    def current(self) -> Grid:
        """Return the quantizer's parameters as a grid of one candidate."""
        assert self.quantizer is not None
        values = self.quantizer.parameters_dict()
        zero = values.get("zero_point")
        return Grid(values["scale"].reshape(1, -1), None if zero is None else zero.reshape(1, -1))


def search_alone(member: Member, search: str) -> None:
    """Set parameters from the tensor itself: ``minmax``, ``percentile`` or ``mse``."""
    rows = rows_of(member.x, None if member.quantizer is None else member.quantizer.axis)
    member.assign(SEARCHES[search](member.target, rows))


def search_output(group: Group, members: Mapping[str, Member], chosen: Sequence[str], rounds: int) -> None:
    """Lower the output error of ``group``: its ``chosen`` weights given activations, then the reverse.

    What no product reads has no such output, and stays as it is.
    """
    if not group.layers:
        return
    steps: Steps = STEPS
    for _ in range(rounds):
        if group.weights:
            _layers(group, members, chosen, steps)
        else:
            _matmul([members[site.name] for site in group.inputs], chosen, steps)
        steps = STEPS[1:]


def _layers(group: Group, members: Mapping[str, Member], chosen: Sequence[str], steps: Steps) -> None:
    source = members[group.inputs[0].name]
    quantized = source.simulated(source.x)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for layer, site in zip(group.layers, group.weights, strict=True):
        member = members[site.name]
        w_OI = weight_matrix(layer, member.x)
        if w_OI is None:
            continue
        x_NI = input_matrix(layer, source.x)
        if site.name in chosen:
            score = weight_score(member.target, w_OI, input_matrix(layer, quantized), x_NI)
            member.assign(local_search(member.target, member.current(), score, steps))
        q_OI = weight_matrix(layer, member.simulated(member.x))
        assert q_OI is not None
        seen.append((x_NI, w_OI, q_OI))
    searchable = source.site.name in chosen and source.quantizer is not None and source.quantizer.axis is None
    if not searchable or len(seen) < len(group.layers) or len({x.shape for x, _, _ in seen}) != 1:
        return
    x_NI = seen[0][0]
    x_NI = x_NI[:: -(-len(x_NI) // MAX_TOKENS)]
    w_OI, q_OI = torch.cat([w for _, w, _ in seen]), torch.cat([q for _, _, q in seen])
    score = product_score(source.target, x_NI, None, w_OI.T, q_OI.T)
    source.assign(local_search(source.target, source.current(), score, steps))


def _matmul(pair: Sequence[Member], chosen: Sequence[str], steps: Steps) -> None:
    if len(pair) != 2 or pair[0].x.shape[:-2] != pair[1].x.shape[:-2]:
        return
    images = len(pair[0].x)
    keep = max(MAX_OPERANDS * images // max(member.x.numel() for member in pair), 1)
    left, right = (member.x[:: -(-images // keep)] for member in pair)
    for own, other, x, y in ((pair[0], pair[1], left, right), (pair[1], pair[0], right.mT, left.mT)):
        axis = None if own.quantizer is None else own.quantizer.axis
        if own.site.name in chosen and axis in (None, -3):
            quantized = other.simulated(y.mT).mT if own is pair[1] else other.simulated(y)
            score = product_score(own.target, x, axis, y, quantized)
            own.assign(local_search(own.target, own.current(), score, steps))

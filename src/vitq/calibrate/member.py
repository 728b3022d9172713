"""A site that is to be calibrated, with its tensor and its quantizer, and what its tensor must be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitq.calibrate.candidates import Candidates, SearchSpec
from vitq.calibrate.groups import Group
from vitq.calibrate.insert import quantizer_of
from vitq.calibrate.statistics import dead_channels, require_usable
from vitq.errors import CalibrationError
from vitq.graph import Graph, Role, Site
from vitq.quantizers import Granularity, Quantizer
from vitq.quantizers.tokens import others, picked

if TYPE_CHECKING:
    from vitq.run.events import Events


@dataclass(frozen=True)
class Member:
    """One site of a group: its tensor, its quantizer if it has one, and the exponent of errors in its own searches."""

    site: Site
    x: torch.Tensor
    quantizer: Quantizer | None
    exponent: float = 2.0

    @property
    def spec(self) -> SearchSpec:
        """What to search for."""
        assert self.quantizer is not None
        free = self.site.role is Role.POST_NORM and self.quantizer.format.granularity == Granularity.CHANNEL
        return SearchSpec(self.quantizer.format, must_hold_zero=not free, exponent=self.exponent)

    @property
    def ordinary(self) -> torch.Tensor:
        """The values without those of tokens that have parameters of their own."""
        places = None if self.quantizer is None else self.quantizer.places_P
        return self.x if places is None else others(self.x, places)

    @property
    def apart(self) -> torch.Tensor:
        """The values of tokens that have parameters of their own."""
        assert self.quantizer is not None and self.quantizer.places_P is not None
        return picked(self.x, self.quantizer.places_P)

    def simulated(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as the quantizer leaves it."""
        return x if self.quantizer is None else self.quantizer(x)

    def assign(self, found: Candidates) -> None:
        """Set the quantizer's parameters from one candidate."""
        assert self.quantizer is not None
        self.quantizer.set_parameters(**found.shaped(*self.quantizer.base_shape(self.x.shape)))

    def current(self) -> Candidates:
        """Return the quantizer's parameters as one candidate, without those of tokens that have their own."""
        assert self.quantizer is not None
        bits, values = self.quantizer.format.bits, self.quantizer.parameters_dict()
        own = {parameter.name: parameter.own(bits) for parameter in self.quantizer.codec.parameters}
        return Candidates({name: values[name].reshape(1, -1, *shape) for name, shape in own.items()})


def members_of(
    graph: Graph, group: Group, tensors: Mapping[str, torch.Tensor], exponents: Mapping[Role, float]
) -> dict[str, Member]:
    """Return the sites of ``group`` whose tensors are there, by name."""
    found = {}
    for site in group.sites:
        if site.is_weight or site.name in tensors:
            x = graph.parameter(site.node)[1] if site.is_weight else tensors[site.name]
            exponent = exponents.get(site.role, 2.0)
            found[site.name] = Member(site, x.detach(), quantizer_of(graph, site.name), exponent)
    return found


def check_values(member: Member, events: "Events", *, fixed: bool) -> None:
    """Raise CalibrationError for values that cannot be calibrated, and warn of odd ones.

    ``fixed``: they are the same for all images.
    """
    idle_branch = member.site.role is Role.RESIDUAL  # a branch that adds nothing, as some begin their training
    require_usable(member.site.name, member.x, weight=member.site.is_weight, may_be_zero=idle_branch or fixed)
    if fixed and not member.site.is_weight and not bool(member.x.any()):
        events.warn("always-zero", f"site '{member.site.name}' is 0 whatever the image is; its scale says nothing")
        return
    quantizer = member.quantizer
    assert isinstance(quantizer, Quantizer)
    if not quantizer.codec.signed and float(member.x.min()) < 0:
        raise CalibrationError(
            f"site '{member.site.name}': format '{quantizer.format.name}' has no negative values, and its tensor goes "
            f"down to {float(member.x.min()):.3g}; give its role a format with both signs, such as affine"
        )
    if quantizer.axis is None:
        return
    x = quantizer.grouped(member.x)
    dead = dead_channels(x, quantizer.axis)
    if dead:
        total = x.shape[quantizer.axis]
        name = f"site '{member.site.name}'"
        events.warn("dead-channel", f"{name}: {dead} of {total} {quantizer.format.granularity.kind}s are constant")

"""Candidate parameters of a quantizer: K settings for each of G groups.

A group's candidates are ranges [low, high]; a range becomes parameters by the format's own rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from vitq.quantizers import FORMATS, Codec, Format, Parameters
from vitq.quantizers.kernels import simulate


@dataclass(frozen=True)
class Candidates:
    """Parameters by name, each (K, G) and its own dimensions behind them; one that all groups share is (K, 1)."""

    parameters: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.parameters[name]

    @property
    def groups(self) -> int:
        """Number of parameter groups."""
        return max(tensor.shape[1] for tensor in self.parameters.values())

    def part(self, first: int, last: int) -> "Candidates":
        """Return candidates ``first`` to ``last`` (exclusive)."""
        return self._map(lambda tensor: tensor[first:last])

    def pick(self, best_G: torch.Tensor) -> "Candidates":
        """Return for each group its own candidate ``best_G``, as one candidate; what is shared is the first group's."""
        each_G = torch.arange(self.groups, device=best_G.device)
        return self._map(lambda t: t[best_G, each_G][None] if t.shape[1] == len(each_G) else t[best_G[:1]])

    def only(self, chosen_K: torch.Tensor) -> "Candidates":
        """Return the chosen candidates."""
        return self._map(lambda tensor: tensor[chosen_K])

    def shaped(self, *shape: int) -> dict[str, torch.Tensor]:
        """Return the parameters of one candidate at broadcast shape, as a quantizer has them."""
        groups = self.groups
        return {
            name: t.reshape((*(shape if t.shape[1] == groups else ()), *t.shape[2:]))
            for name, t in self.parameters.items()
        }

    def spread(self) -> dict[str, torch.Tensor]:
        """Return the parameters as (K, G, 1) and their own dimensions: what broadcasts against values_KGN."""
        return {name: tensor.unsqueeze(2) for name, tensor in self.parameters.items()}

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Candidates":
        return Candidates({name: change(tensor) for name, tensor in self.parameters.items()})


Score = Callable[[Candidates], torch.Tensor]
"""error_KG of candidates: the smaller, the better."""


@dataclass(frozen=True)
class SearchSpec:
    """What is searched for: the parameters of a format, and whether its ranges must hold zero.

    ``must_hold_zero`` False lets a group's range lie anywhere (a zero point outside the codes): channel-wise
    post-norm activations before their scales are transferred. ``exponent``: of a value's error, in searches by the
    tensor itself; 2 is the squared error, more clips less.
    """

    format: Format
    must_hold_zero: bool = True
    exponent: float = 2.0

    @property
    def codec(self) -> Codec:
        """The format's functions."""
        return FORMATS[self.format.name]

    @property
    def one_sided(self) -> bool:
        """True where one number describes a range."""
        return self.codec.one_sided(self.format)

    def candidates(self, low_KG: torch.Tensor, high_KG: torch.Tensor, start: Candidates | None = None) -> Candidates:
        """Return what the format tries for the ranges [low, high]; ``start`` is what a local search improves."""
        own = None if start is None else start.parameters
        return Candidates(self.codec.candidates(self.format, low_KG, high_KG, self.must_hold_zero, own))

    def range(self, candidates: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ranges [low, high] of candidates."""
        return self.codec.range_of(self.format, candidates.parameters)

    def fitted(self, values_GN: torch.Tensor, weights_GN: torch.Tensor) -> Candidates | None:
        """Return the one candidate that a format fits to weighted values; None where it does not look at them."""
        found = self.codec.fit(self.format, values_GN, weights_GN)
        return None if found is None else Candidates(found)

    def simulate(self, x: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Return x̂, in a new tensor, for parameters that broadcast against x."""
        return simulate(self.codec, x, None, self.format.qmax, parameters)

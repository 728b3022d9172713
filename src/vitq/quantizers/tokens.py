"""A few tokens whose values have parameters of their own: class and register tokens, or places that hold huge values.

One token a hundred times as large as the others makes a common scale useless for these. The places are fixed, so codes
of both kinds stay whole steps of one scale each, and what multiplies them can do so in two integer products. Source:
vitq; that few tokens and channels hold massive values is Sun et al., COLM 2024, arXiv 2402.17762.
"""

from collections.abc import Mapping

import torch

AXIS = -2
"""Where tokens lie: x_BTC, x_BHTD."""

PREFIX = "outlier_"
PLACES = f"{PREFIX}tokens"
"""Name under which the places are kept, beside the parameters with the prefix."""


def listed(places_P: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """Return the places of tokens as whole numbers on ``device``; None for what is no list of different ones from 0."""
    places = places_P.detach().to(device, torch.int64)
    whole = places.ndim == 1 and len(places) > 0 and torch.equal(places.to(places_P), places_P.to(places.device))
    return places if whole and len(places.unique()) == len(places) and bool((places >= 0).all()) else None


def split(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Return the parameters of ordinary tokens, those of tokens kept apart, and the places of these."""
    ordinary = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    apart = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name not in ordinary}
    return ordinary, apart, apart.pop(PLACES.removeprefix(PREFIX), torch.empty(0, dtype=torch.int64))


def picked(x: torch.Tensor, places_P: torch.Tensor) -> torch.Tensor:
    """Return the tokens at ``places_P``."""
    return x.index_select(AXIS, places_P)


def others(x: torch.Tensor, places_P: torch.Tensor) -> torch.Tensor:
    """Return all other tokens, in their order."""
    kept_T = torch.ones(x.shape[AXIS], dtype=torch.bool, device=x.device)
    kept_T[places_P] = False
    return x.index_select(AXIS, kept_T.nonzero().flatten())


def put(x: torch.Tensor, places_P: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return ``x`` with ``tokens`` at ``places_P``."""
    return x.index_copy(AXIS, places_P, tokens)

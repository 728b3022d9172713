"""Which tokens of a site get parameters of their own: massive ones, and those that the model adds to the image's.

A class token is one of hundreds, so a search by squared error clips it where it reaches further than the others, though
all that follows depends on it. Source: vitq.
"""

from collections.abc import Mapping

import torch

from vitq.calibrate.outliers import LEAST_TOKENS, Outlying, outlying
from vitq.graph import Role, Site

Added = Mapping[int, tuple[int, ...]]
"""Places of tokens that the model adds, by the number of all tokens (``graph.queries.added_tokens``)."""

IN_PRODUCTS = (Role.POST_NORM, Role.POST_ACTIVATION, Role.OTHER)
"""Roles in which added tokens are kept apart where they reach further."""
FURTHER = 1.5
"""By how much they then do: the others get more than half a bit."""


def tokens_apart(site: Site, x: torch.Tensor, axis: int | None, added: Added) -> Outlying | None:
    """Return the tokens of x_BTC that get a range of their own, or massive ones that cannot; None without either.

    ``axis`` is the quantizer's. Massive tokens of fixed places come first: there are two kinds of tokens at most.
    """
    found = outlying(site, x, axis)
    return _added_apart(site, x, added) if found is None and axis is None else found


def _added_apart(site: Site, x: torch.Tensor, added: Added) -> Outlying | None:
    if site.role not in IN_PRODUCTS or x.ndim != 3 or x.shape[1] < LEAST_TOKENS:
        return None
    places = added.get(x.shape[1])
    if not places:
        return None
    most_TC = x.abs().amax(0)
    own_C, ordinary_TC = most_TC[list(places)].amax(0), most_TC.clone()
    ordinary_TC[list(places)] = 0
    channel, largest = int(own_C.argmax()), float(own_C.max())
    ratio = largest / max(float(ordinary_TC.max()), 1e-12)
    if ratio < FURTHER:
        return None
    median = float(x[..., channel].abs().flatten().median())
    return Outlying(site.name, places, channel, largest, median, ratio, fixed=True)

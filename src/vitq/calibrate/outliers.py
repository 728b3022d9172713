"""Massive tokens: places whose values are so large that a range for all tokens would be useless for the others.

Legend: B images, T tokens, C channels, G groups of values with parameters of their own: one, or each channel or head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitq.graph import Graph, Role, Site
from vitq.quantizers import Quantizer

MOST = 16
"""Tokens at most that have ranges of their own: class and register tokens, corners."""
LEAST_IMAGES, LEAST_TOKENS = 8, 32
"""Fewer say nothing about the places of tokens, or about what is usual among them."""
FAR, FAR_IN_A_CHANNEL = 4.0, 16.0
"""By how much a range has to shrink without them: two bits, and four where channels have ranges of their own."""
CHANNELS, NEAR = 8, 0.5
"""How many channels of a site are named at most, and how far each must reach, in parts of the first one's reach."""
ELSEWHERE = 0.05
"""In which share of new images a massive token may be at another place: more, and the places are not fixed."""
LEFT_OUT = (Role.PROBABILITIES, Role.SOFTMAX_INPUT, Role.IMAGE, Role.WEIGHT, Role.KEY)
"""Roles whose second-last axis are queries, or no tokens: keys are turned."""
OF_HEADS = (Role.QUERY, Role.VALUE)
"""Roles whose tensors of four axes have heads; those of others are maps, whose rows or columns are no tokens."""


@dataclass(frozen=True)
class Outlying:
    """Massive tokens of one site: their places, the channels that reach furthest, how far the first and others do.

    ``median`` is of the first channel's values. ``ratio``: by how much the range shrinks without these tokens.
    ``fixed``: whether they are the same for all images, so that they have a range of their own.
    """

    site: str
    tokens: tuple[int, ...]
    channels: tuple[int, ...]
    largest: float
    median: float
    ratio: float
    fixed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "tokens": list(self.tokens), "channels": list(self.channels)}


def outlying(site: Site, x: torch.Tensor, axis: int | None) -> Outlying | None:
    """Return the massive tokens of a site's values x_BTC (or of heads, x_BHTD), None where there are none.

    ``axis`` is the quantizer's: None, the channels' or the heads'. A token is massive where it takes part in making the
    range of the others ``FAR`` times as wide; the largest one is judged first.
    """
    if site.role in LEFT_OUT or x.ndim not in (3, 4) or axis not in (None, -1, -3):
        return None
    if x.ndim == 4 and site.role not in OF_HEADS:
        return None
    if site.role is Role.POST_NORM and axis == -1:  # whose scales move into the norm
        return None
    if len(x) < LEAST_IMAGES or x.shape[-2] < LEAST_TOKENS or (x.ndim == 4 and axis == -1):
        return None
    each_BTC = x.abs() if x.ndim == 3 else x.abs().amax(1)
    far = FAR_IN_A_CHANNEL if axis == -1 else FAR
    if axis == -3:
        most_BTG = x.abs().amax(-1).transpose(1, 2)  # heads
    else:
        most_BTG = each_BTC if axis == -1 else each_BTC.amax(2, keepdim=True)
    places, ratio = _massive(most_BTG.amax(0), far)
    fixed = bool(places) and _elsewhere(most_BTG, places) <= ELSEWHERE
    if not fixed:  # the same question for tokens at any place; single channels are often silent but for a few tokens
        if axis is not None or _share_of_images(most_BTG, 2 * far) < 0.5:
            return None
        places, ratio = [], 2 * far
    flat_C = each_BTC.amax((0, 1))
    own_C, channels_K = (each_BTC[:, places].amax((0, 1)) if places else flat_C).topk(min(CHANNELS, len(flat_C)))
    channels = tuple(channels_K[own_C >= NEAR * own_C[0]].tolist())
    median = float(each_BTC[..., channels[0]].flatten().median())
    return Outlying(site.name, tuple(places), channels, float(flat_C[channels[0]]), median, ratio, fixed)


def still_true(graph: Graph, found: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return those of ``found``, plain values of massive tokens, that hold of the sites as ``graph`` quantizes them."""
    return tuple(one for one in found if _holds(graph.quantizers.get(one["site"]), one))


def _holds(quantizer: nn.Module | None, found: Mapping[str, Any]) -> bool:
    if not isinstance(quantizer, Quantizer):
        return False
    places = None if quantizer.places_P is None else quantizer.places_P.tolist()
    return places == (found["tokens"] if found["fixed"] else None)


def keep_apart(quantizer: Quantizer, found: Outlying) -> bool:
    """Give massive tokens of fixed places a range of their own, and tell whether they have one."""
    if found.fixed:
        quantizer.keep_apart(torch.tensor(found.tokens))
    return found.fixed


def _massive(most_TG: torch.Tensor, far: float) -> tuple[list[int], float]:
    """Return places without which the range of some group is ``far`` times narrower, and how many times it is.

    Of all numbers of places that do so the one behind which the reach falls most: what is as massive stays together.
    """
    usual_G = most_TG.median(0).values.clamp(min=1e-12)
    reach_T, place_T = (most_TG / usual_G).amax(1).sort(descending=True)
    reach = reach_T[: MOST + 1].clamp(min=1e-12).tolist()
    enough = [count for count in range(1, len(reach)) if reach[0] >= far * reach[count]]
    if not enough:
        return [], 1.0
    cut = max(enough, key=lambda count: reach[count - 1] / reach[count])
    return sorted(place_T[:cut].tolist()), reach[0] / reach[cut]


def _elsewhere(most_BTG: torch.Tensor, places: Sequence[int]) -> float:
    """Return in which share of new images a token at another place will reach as far.

    That is the number of places seen in one image only, by the number of images (Good, Biometrika 1953).
    """
    others_TG = most_BTG.amax(0)
    others_TG[list(places)] = 0
    seen_P = (most_BTG[:, places] > others_TG.amax(0)).any(-1).sum(0)
    return int((seen_P == 1).sum()) / len(most_BTG)


def _share_of_images(most_BTG: torch.Tensor, far: float) -> float:
    """Return in which share of the images some token is ``far`` times beyond all but a few of the others."""
    few = most_BTG.topk(min(MOST + 1, most_BTG.shape[1]), dim=1).values
    return float((few[:, 0] >= far * few[:, -1].clamp(min=1e-12)).any(-1).float().mean())


def sentence(found: Sequence[Outlying]) -> str:
    """Say which tokens and channels are massive, how far, where, and what is done."""
    worst = max(found, key=lambda one: one.ratio)
    sites = f"{len(found)} site{'s' if len(found) > 1 else ''}"
    named = f"channel{'s' if len(worst.channels) > 1 else ''} {', '.join(map(str, worst.channels))}"
    where = f"'{worst.site}', {named}: {worst.largest:.3g} where the median is {worst.median:.2g}"
    if not worst.fixed:
        return (
            f"a few tokens, not the same in all images, are massive at {sites} (the most at {where}); no range of "
            "their own can be kept for them: a recipe that smooths or rotates (repq, smoothquant) may lose less"
        )
    tokens = ", ".join(map(str, worst.tokens))
    return (
        f"tokens {tokens} make ranges {worst.ratio:.0f} times as wide as the others need at {sites} (the most at "
        f"{where}); they have ranges of their own"
    )

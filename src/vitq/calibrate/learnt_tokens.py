"""Learnt tokens, such as class and register tokens: what a model puts beside the tokens of an image.

Outputs depend on them more than on others, and they are few, so the search for a range of all clips what is unusual
about them. They are what two images of noise have in common, before attention mixes tokens. Source: vitq.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from vitq.activations import sites_by_segment, walk
from vitq.calibrate.assign import search_alone
from vitq.calibrate.member import Member
from vitq.graph import Graph
from vitq.quantizers import Quantizer, make_quantizer
from vitq.quantizers.tokens import picked

Places = Mapping[int, tuple[int, ...]]
"""Places of learnt tokens in tensors x_BTC, by T."""


@torch.no_grad()
def learnt_tokens(graph: Graph, like_NCHW: torch.Tensor, device: torch.device) -> Places:
    """Return the places of learnt tokens, by the number of all tokens; none where there are none.

    The first site of so many tokens tells for all. ``like_NCHW``: images of the model's size, whose values say nothing.
    """
    generator = torch.Generator().manual_seed(0)
    noise_NCHW = torch.rand((2, *like_NCHW.shape[1:]), generator=generator).to(like_NCHW)
    found: dict[int, tuple[int, ...]] = {}
    for segment, tensors in walk(graph, noise_NCHW, sites_by_segment(graph, lambda _: True), device):
        for site in segment.sites:
            x = tensors[site.name]
            if x.ndim == 3 and len(x) % 2 == 0 and x.shape[1] not in found:
                first_BTC, second_BTC = x.chunk(2)
                same_T = torch.isclose(first_BTC, second_BTC).all(2).all(0)
                found[x.shape[1]] = () if bool(same_T.all()) else tuple(same_T.nonzero().flatten().tolist())
    return {tokens: places for tokens, places in found.items() if places}


def keep_learnt_apart(member: Member, learnt: Places, search: str) -> bool:
    """Give the learnt tokens of a calibrated site a range of their own where they lose less by it; tell whether.

    It is wider than what is seen of them (``widened``), since few values are. Tokens that are kept apart already, as
    massive ones are, stay so, and scales per token or head.
    """
    shared, x = member.quantizer, member.x
    assert shared is not None
    if x.ndim != 3 or x.shape[1] not in learnt or shared.places_P is not None or shared.axis not in (None, -1):
        return False
    places_P = torch.tensor(learnt[x.shape[1]], device=x.device)
    own = make_quantizer(shared.format, shared.axis).to(x.device)
    own.keep_apart(places_P)
    search_alone(replace(member, quantizer=own), search, "widened")
    if _error(own, x, places_P) >= _error(shared, x, places_P):
        return False
    shared.set_parameters(**own.parameters_dict())
    return True


def _error(quantizer: Quantizer, x_BTC: torch.Tensor, places_P: torch.Tensor) -> float:
    return float(picked(quantizer(x_BTC) - x_BTC, places_P).double().square().sum())

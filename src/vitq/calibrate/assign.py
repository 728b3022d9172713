"""Calibrate one group of sites: first each tensor on its own, then by the layer's output in alternation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from vitq.calibrate.groups import Group, input_matrix, input_rows, weight_matrix
from vitq.calibrate.member import Member
from vitq.calibrate.output_search import MOVES, product_score, search_groups, weight_score
from vitq.calibrate.samples import samples_of
from vitq.calibrate.searches import SEARCHES, Moves, local_search
from vitq.calibrate.sensitivity import Sensitivity

MAX_TOKENS = 1024
"""Rows on which an activation's candidates are compared by the layer's output."""

MAX_OPERANDS = 1 << 20
"""Elements of a matmul operand that an output search looks at."""


def search_alone(member: Member, search: str, apart: str | None = None) -> None:
    """Set parameters from the tensor itself by a search, or as a format that needs the data fits them.

    ``apart``: the search for tokens that have parameters of their own, where it is another.
    """
    assert member.quantizer is not None
    if member.quantizer.outliers is not None:
        search_alone(replace(member, x=member.apart, quantizer=member.quantizer.outliers), apart or search)
    x = member.ordinary
    samples = samples_of(member.quantizer.grouped(x), member.quantizer.axis)
    fitted = member.spec.fitted(samples.values_GN, samples.weights_GN)
    member.assign(SEARCHES[search](member.spec, samples) if fitted is None else fitted)


def search_output(
    group: Group,
    members: Mapping[str, Member],
    chosen: Sequence[str],
    rounds: int,
    sensitive: Mapping[str, Sensitivity] | None = None,
) -> None:
    """Lower the output error of ``group``: its ``chosen`` weights given activations, then the reverse.

    ``sensitive`` weighs the error, by the names of products; a group of which it lacks one is searched without it.
    What no product reads has no such output, and stays as it is.
    """
    if not group.layers:
        return
    found = [(sensitive or {}).get(layer.name) for layer in group.layers]
    weighed = [s for s in found if s is not None] if None not in found else []
    passes: Moves = MOVES
    for _ in range(rounds):
        if group.weights:
            _layers(group, members, chosen, passes, weighed)
        else:
            _matmul([members[site.name] for site in group.inputs], chosen, passes, *weighed)
        passes = MOVES[1:]


def _layers(
    group: Group, members: Mapping[str, Member], chosen: Sequence[str], passes: Moves, weighed: Sequence[Sensitivity]
) -> None:
    source = members[group.inputs[0].name]
    quantized = source.simulated(source.x)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for place, (layer, site) in enumerate(zip(group.layers, group.weights, strict=True)):
        member = members[site.name]
        w_OI = weight_matrix(layer, member.x)
        if w_OI is None:
            continue
        own = weighed[place] if weighed else None
        weights_NO = None if own is None else own.weights
        x_NI = _rows_searched(layer, source.x, own)
        if site.name in chosen:
            operands = w_OI, _rows_searched(layer, quantized, own), x_NI
            if member.spec.format.granularity.size:
                member.assign(search_groups(member.spec, member.current(), *operands, passes, weights_NO))
            else:
                score = weight_score(member.spec, *operands, weights_NO)
                member.assign(local_search(member.spec, member.current(), score, passes))
        q_OI = weight_matrix(layer, member.simulated(member.x))
        assert q_OI is not None
        seen.append((x_NI, w_OI, q_OI))
    searchable = source.site.name in chosen and source.quantizer is not None and source.quantizer.axis is None
    if not searchable or len(seen) < len(group.layers):
        return
    assert source.quantizer is not None
    if source.quantizer.outliers is not None:  # rows of ordinary tokens tell of the parameters that they have
        weighed = []
        seen = [
            (input_matrix(layer, source.ordinary), w_OI, q_OI)
            for layer, (_, w_OI, q_OI) in zip(group.layers, seen, strict=True)
        ]
    if weighed:
        each = [
            product_score(source.spec, x_NI, None, w_OI.T, q_OI.T, own.weights)
            for (x_NI, w_OI, q_OI), own in zip(seen, weighed, strict=True)
        ]
        found = local_search(
            source.spec, source.current(), lambda tried: torch.stack([s(tried) for s in each]).sum(0), passes
        )
        source.assign(found)
        return
    if len({x.shape for x, _, _ in seen}) != 1:
        return
    x_NI = seen[0][0]
    x_NI = x_NI[:: -(-len(x_NI) // MAX_TOKENS)]
    w_OI, q_OI = torch.cat([w for _, w, _ in seen]), torch.cat([q for _, _, q in seen])
    score = product_score(source.spec, x_NI, None, w_OI.T, q_OI.T)
    source.assign(local_search(source.spec, source.current(), score, passes))


def _rows_searched(layer: fx.Node, x: torch.Tensor, weighed: Sensitivity | None) -> torch.Tensor:
    """Return the rows of the layer's input that a search looks at: those of a sensitivity, or a thinned sample."""
    return input_matrix(layer, x) if weighed is None else input_rows(layer, x)[weighed.rows_R]


def _matmul(pair: Sequence[Member], chosen: Sequence[str], passes: Moves, weighed: Sensitivity | None = None) -> None:
    if len(pair) != 2 or pair[0].x.shape[:-2] != pair[1].x.shape[:-2]:
        return
    if any(member.x.ndim < 3 for member in pair):
        weighed = None  # rows of a matrix: none of both operands
    images = len(pair[0].x)
    keep = max(MAX_OPERANDS * images // max(member.x.numel() for member in pair), 1)
    rows = slice(None, None, -(-images // keep)) if weighed is None else weighed.rows_R
    left, right = (member.x[rows] for member in pair)
    weights = None if weighed is None else weighed.weights
    turned = None if weights is None else weights.mT
    ways = ((pair[0], pair[1], left, right, weights), (pair[1], pair[0], right.mT, left.mT, turned))
    for own, other, x, y, each in ways:
        axis = None if own.quantizer is None else own.quantizer.axis
        apart = own.quantizer is not None and own.quantizer.outliers is not None
        if own.site.name in chosen and axis in (None, -3) and not apart:
            quantized = other.simulated(y.mT).mT if own is pair[1] else other.simulated(y)
            score = product_score(own.spec, x, axis, y, quantized, each)
            own.assign(local_search(own.spec, own.current(), score, passes))

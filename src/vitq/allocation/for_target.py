"""Constraints of a target: which bits its runtime carries at each site, and what they take in its file."""

from collections.abc import Collection, Mapping, Sequence

import torch

from vitq.allocate.costs import Costs, SiteCost, stored_bytes
from vitq.artifact.tensors import freeze_weights
from vitq.bits import FLOATING_POINT
from vitq.errors import AllocationError
from vitq.export.targets import Profile, require_export, weight_bits_for
from vitq.graph import Graph
from vitq.quantizers import Format, Quantizer

HALF, CAST, METADATA = 4, 256, 2048
"""Most bits of a code that takes half a byte; bytes of the operation that widens such codes; of a file's properties."""


def candidates_for(candidates: Sequence[int], profile: Profile) -> tuple[int, ...]:
    """Return the candidates with those that weights get in place of some of them, as ``weight_bits_for`` narrows."""
    return tuple(sorted({*candidates, *(weight_bits_for(width, profile) for width in candidates)}))


def carried_bits(
    graph: Graph,
    library: Mapping[int, Mapping[str, Quantizer]],
    sites: Sequence[str],
    candidates: Sequence[int],
    profile: Profile,
    only_weights: Collection[int] = (),
) -> dict[str, tuple[int, ...]]:
    """Return the candidates of each site that a file for ``profile`` carries, where those are not all.

    Weights of more bits than its integer kernels take are left out, and so is what export refuses, with its reason in
    the error where nothing is left; activations get none of ``only_weights``. AllocationError for such a site, where
    floating point is no candidate.
    """
    require_export()
    from vitq.export.lower import refusal_of

    found: dict[str, tuple[int, ...]] = {}
    for name in sites:
        site, own, reasons = graph.sites[name], list[int](), list[str]()
        for width in candidates:
            if width in only_weights and not site.is_weight:
                continue
            if width == FLOATING_POINT:
                own.append(width)
            elif site.is_weight and weight_bits_for(width, profile) != width:
                reasons.append(f"weights of {width} bits saturate in its integer kernels")
            elif reason := refusal_of(site, library[width][name], profile):
                reasons.append(reason)
            else:
                own.append(width)
        if not own:
            raise AllocationError(
                f"'{name}' has no bits on {profile.name}: {reasons[0]}; add 32 to the candidates, which leaves it in "
                "floating point, or take another recipe"
            )
        if len(own) < len(candidates):
            found[name] = tuple(own)
    return found


def file_bytes(site: SiteCost, form: Format | None) -> int:
    """Return what a weight takes in a file: half a byte a code up to 4 bits, and one above; activations take nothing.

    Their parameters, and those of weights, are the same at all bits.
    """
    if form is None or not site.is_weight:
        return stored_bytes(site, None, None, ())
    return -(-site.elements // 2) + CAST if form.bits <= HALF else site.elements


def other_bytes(
    graph: Graph, widest: Mapping[str, Quantizer], costs: Costs, profile: Profile, example_BCHW: torch.Tensor
) -> int:
    """Return what a file holds beside the weights of the sites of ``widest``, which are their quantizers of most bits.

    The file is written once, of a copy of the calibrated ``graph``. One with fewer quantizers is smaller.
    """
    from vitq.export.build import build
    from vitq.export.lower import refusal_of

    clone = graph.clone()
    for name, quantizer in widest.items():
        clone.replace(name, quantizer)
    quantizers = [(name, q) for name, q in clone.quantizers.items() if isinstance(q, Quantizer)]
    clone.remove(*(name for name, q in quantizers if refusal_of(clone.sites[name], q, profile)))
    held = {name: clone.quantizers[name] for name in widest if name in clone.quantizers}
    weights = freeze_weights(clone)
    clone.to(torch.device("cpu"))
    content = build(clone, weights, example_BCHW, {}, profile.carrier)
    forms = {name: q.format if isinstance(q := held.get(name), Quantizer) else None for name in widest}
    return len(content) + METADATA - sum(file_bytes(costs.sites[name], form) for name, form in forms.items())

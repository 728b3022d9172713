"""The values of a tensor by parameter group, thinned where there are many: what a search looks at.

G: parameter groups (1, channels, heads, tokens); N: values of a group; T: values kept at each tail.
"""

from dataclasses import dataclass

import torch

CHUNK = 64


@dataclass(frozen=True)
class GroupSamples:
    """Values of each group, how many elements each stands for, and the exact ends of each group."""

    values_GN: torch.Tensor
    weights_GN: torch.Tensor
    low_G: torch.Tensor
    high_G: torch.Tensor


def samples_of(x: torch.Tensor, axis: int | None, limit: int = 1 << 14) -> GroupSamples:
    """Group ``x`` along ``axis`` (None: one group) and keep about ``limit`` values, at least 512 a group.

    Thinned groups keep their largest and smallest values exactly and every k-th of the rest, weighted to
    stand for all: outliers, which decide the clipping, are never missed. Source: vitq.
    """
    x_GN = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
    x_GN = x_GN.float()
    low_G, high_G = x_GN.aminmax(dim=1)
    count = x_GN.shape[1]
    keep = max(limit // x_GN.shape[0], 512)
    if count <= keep:
        return GroupSamples(x_GN, torch.ones_like(x_GN), low_G, high_G)
    tail = keep // 16
    top_GT, bottom_GT = largest(x_GN, tail), -largest(-x_GN, tail)
    body_GM = x_GN[:, :: -(-count // (keep - 2 * tail))]
    inside_GM = (body_GM < top_GT.amin(1, keepdim=True)) & (body_GM > bottom_GT.amax(1, keepdim=True))
    share_G1 = (count - 2 * tail) / inside_GM.sum(1, keepdim=True).clamp(min=1)
    weights = (torch.ones_like(bottom_GT), inside_GM * share_G1, torch.ones_like(top_GT))
    return GroupSamples(torch.cat((bottom_GT, body_GM, top_GT), 1), torch.cat(weights, 1), low_G, high_G)


def largest(x_GN: torch.Tensor, k: int) -> torch.Tensor:
    """Return the ``k`` largest values of each row, exactly: they lie in the k chunks of largest maximum."""
    count = x_GN.shape[1]
    whole = count // CHUNK * CHUNK
    chunks_GCK = x_GN[:, :whole].reshape(x_GN.shape[0], -1, CHUNK)
    if chunks_GCK.shape[1] <= k:
        return x_GN.topk(k, dim=1).values
    best_Gk = chunks_GCK.amax(2).topk(k, dim=1).indices
    kept = chunks_GCK.gather(1, best_Gk[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
    return torch.cat((kept, x_GN[:, whole:]), 1).topk(k, dim=1).values


def quantiles(samples: GroupSamples, levels: torch.Tensor) -> torch.Tensor:
    """Return the weighted quantile_KG of each group at each level in 0..1."""
    order = samples.values_GN.argsort(dim=1)
    values_GN = samples.values_GN.gather(1, order)
    mass_GN = samples.weights_GN.gather(1, order).double().cumsum(1)
    wanted_GK = levels.double()[None, :] * mass_GN[:, -1:]
    index_GK = torch.searchsorted(mass_GN, wanted_GK.contiguous()).clamp(max=values_GN.shape[1] - 1)
    return values_GN.gather(1, index_GK).T

"""The best subset of a set of magnitudes for given values, exactly. G: groups, N: values, P: points, L: levels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitq.quantizers.scales import SMALLEST_SCALE


def best_subset(
    x_GN: Tensor, weights_GN: Tensor, points_P: Tensor, count: int, parts: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return scale_G and levels_GL (sorted) of least weighted squared error of magnitudes ``x_GN``.

    Scales are ``parts`` of a group's largest value. For each the best ``count`` points are found by dynamic programming
    over neighbouring levels, as in one-dimensional k-means (Ckmeans.1d.dp), here among given points.
    """
    order = x_GN.argsort(1)
    x_GN, w_GN = x_GN.gather(1, order).double(), weights_GN.gather(1, order).double()
    moments = [torch.nn.functional.pad((w_GN * x_GN**k).cumsum(1), (1, 0)) for k in range(3)]
    largest_G = x_GN[:, -1].clamp(min=SMALLEST_SCALE)
    found = [_best(x_GN, moments, largest_G * part, points_P.double(), count) for part in parts]
    best_G = torch.stack([error_G for error_G, _ in found]).argmin(0)
    levels_GL = torch.stack([levels_GL for _, levels_GL in found])[best_G, torch.arange(len(best_G))]
    scale_G = largest_G * torch.tensor(parts, device=x_GN.device, dtype=torch.double)[best_G]
    return scale_G.float(), levels_GL.float()


def _best(x_GN: Tensor, moments: list[Tensor], scale_G: Tensor, points_P: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the least error_G of ``count`` points times the scale, and these points."""
    points_GP = scale_G[:, None] * points_P
    middles_GPP = (points_GP[:, :, None] + points_GP[:, None, :]) / 2
    bounds_GPP = torch.searchsorted(x_GN, middles_GPP.flatten(1)).view_as(middles_GPP)
    at_G1 = torch.searchsorted(x_GN, points_GP.contiguous())
    edge = torch.full_like(at_G1, x_GN.shape[1])

    def between(first: Tensor, last: Tensor, point: Tensor) -> Tensor:
        """Error of the values from place ``first`` to ``last`` at a point."""
        mass, total, square = (m.gather(1, last.flatten(1)) - m.gather(1, first.flatten(1)) for m in moments)
        return (square - 2 * point.flatten(1) * total + point.flatten(1) ** 2 * mass).view_as(first)

    lower, upper = points_GP[:, :, None].expand_as(middles_GPP), points_GP[:, None, :].expand_as(middles_GPP)
    start, end = at_G1[:, :, None].expand_as(bounds_GPP), at_G1[:, None, :].expand_as(bounds_GPP)
    step_GPP = between(start, bounds_GPP, lower) + between(bounds_GPP, end, upper)  # from a level to the next one
    step_GPP = step_GPP.masked_fill(~torch.ones_like(step_GPP[0], dtype=torch.bool).triu(1), float("inf"))
    error_GP = between(torch.zeros_like(at_G1), at_G1, points_GP)
    steps_back = []
    for _ in range(count - 1):
        error_GP, before_GP = (error_GP[:, :, None] + step_GPP).min(1)
        steps_back.append(before_GP)
    error_G, last_G = (error_GP + between(at_G1, edge, points_GP)).min(1)
    chosen = [last_G]
    for before_GP in reversed(steps_back):
        chosen.append(before_GP.gather(1, chosen[-1][:, None])[:, 0])
    return error_G, points_P[torch.stack(chosen[::-1], 1)]

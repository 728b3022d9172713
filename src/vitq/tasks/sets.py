"""Sets of boxes: their corners, how far they lie on each other, and which belongs to which; pure functions."""

import torch


def corners(boxes_NQ4: torch.Tensor) -> torch.Tensor:
    """Return (left, top, right, bottom) of boxes (centre x, centre y, width, height)."""
    centre, half = boxes_NQ4[..., :2], boxes_NQ4[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def iou(a_NQ4: torch.Tensor, b_NQ4: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of each box (left, top, right, bottom) with its partner, (N, Q)."""
    low, high = torch.maximum(a_NQ4[..., :2], b_NQ4[..., :2]), torch.minimum(a_NQ4[..., 2:], b_NQ4[..., 2:])
    both = (high - low).clamp(min=0).prod(-1).double()
    either = sum((box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1).double() for box in (a_NQ4, b_NQ4)) - both
    return torch.where(either > 0, both / either, (a_NQ4 == b_NQ4).all(-1).double())


def matching(cost_BRQ: torch.Tensor) -> torch.Tensor:
    """Return the partner of each row, one to one and of the least total cost, (B, R).

    Where each row's own place costs least in it, as in a model that lost little, that is the answer at once.
    """
    from scipy.optimize import linear_sum_assignment

    cost_BRQ = torch.nan_to_num(cost_BRQ.double().cpu(), nan=1e30, posinf=1e30, neginf=-1e30)
    own = torch.arange(cost_BRQ.shape[1])
    rows = [
        own if bool((cost[own, own] <= cost.amin(1)).all()) else torch.from_numpy(linear_sum_assignment(cost)[1])
        for cost in cost_BRQ
    ]
    return torch.stack(rows).long()

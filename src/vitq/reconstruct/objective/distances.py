"""Distances between what a layer of student and teacher computed, beside those of outputs: pure functions."""

import torch
from torch.nn import functional as F

from vitq.tasks.distances import EPSILON, divergence


def image_moments(x: torch.Tensor, images: int) -> torch.Tensor:
    """Return the mean and the mean square per channel (the last axis of x) of each of so many images, as N2C.

    x has equally many rows for each, one after another: tokens, windows or heads.
    """
    x_NTC = x.float().reshape(images, -1, x.shape[-1])
    return torch.stack([x_NTC.mean(1), x_NTC.square().mean(1)], 1)


def pooled_moments(moments_N2C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation per channel over all images.

    By E[x²] - E[x]², which costs a CPU far less than ``torch.std``; float32 is exact to about 1e-7 of E[x²].
    """
    mean_C, square_C = moments_N2C.mean(0)
    return mean_C, (square_C - mean_C.square()).clamp(min=EPSILON**2).sqrt()


def moment_distance(output: torch.Tensor, target_N2C: torch.Tensor) -> torch.Tensor:
    """Return the mean over channels of (Δμ)² + (Δσ)², relative to the target's mean variance.

    ``target_N2C``: ``image_moments`` of the target. Source: MGRQ's intra-block local supervision (arXiv 2406.09229)
    aligns the distribution of each layer's output; its statistic is not published: per-channel moments are vitq's
    choice, KL and MSE the alternatives.
    """
    (mean, std), (target_mean, target_std) = pooled_moments(image_moments(output, 1)), pooled_moments(target_N2C)
    distance = (mean - target_mean).square() + (std - target_std).square()
    return distance.mean() / (target_std.square().mean() + EPSILON)


def pair_divergence(logits_BK: torch.Tensor, target_BK: torch.Tensor, top: int) -> torch.Tensor:
    """Return KL between both models' chances that class i is ahead of class j, averaged over images and pairs.

    The pairs are those of the ``top`` classes that the target finds likeliest; the chance is σ(y_i - y_j), that of i
    where one of the two is right (Bradley, Terry).
    """
    order_BT = target_BK.topk(min(top, target_BK.shape[-1]), -1).indices
    i, j = torch.triu_indices(order_BT.shape[-1], order_BT.shape[-1], 1, device=order_BT.device)
    student_BP, teacher_BP = (
        y_BT[:, i] - y_BT[:, j] for y_BT in (y.float().gather(-1, order_BT) for y in (logits_BK, target_BK))
    )
    ahead, behind = (F.logsigmoid(sign * teacher_BP) - F.logsigmoid(sign * student_BP) for sign in (1, -1))
    p_BP = teacher_BP.sigmoid()
    return (p_BP * ahead + (1 - p_BP) * behind).mean()


def channel_divergence(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return KL between the softmax over channels of both tensors, averaged over positions."""
    k = output.shape[-1]
    return divergence(output.reshape(-1, k), target.reshape(-1, k))

"""Distances between what a layer of student and teacher computed, beside those of outputs: pure functions."""

import torch

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


def channel_divergence(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return KL between the softmax over channels of both tensors, averaged over positions."""
    k = output.shape[-1]
    return divergence(output.reshape(-1, k), target.reshape(-1, k))

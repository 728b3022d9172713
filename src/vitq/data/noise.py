"""Images that nobody took: noise that falls off with frequency as photographs do, and what tells noise from them.

Legend: B batch, C channels, H and W height and width, M similarities, P places where a density is asked for.
"""

import math

import torch
from torch import Tensor

from vitq.models.preprocessing import Preprocessing

NOISE, SYNTHETIC = "noise", "synthetic"
GENERATED = (NOISE, SYNTHETIC)
"""What stands for calibration images where there are none."""

SPREAD = 0.25
"""Standard deviation of the noise, in pixel values of 0..1."""
BANDWIDTH, PLACES, PAIRS = 0.01, 10, 4096
"""Of the density of similarities: its kernel, where it is asked for, and how many similarities it takes."""


def pixel_bounds(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return by channel, as (C, 1, 1), what black and white are for a model; ±2.5 where nobody says."""
    channels = preprocessing.input_size[0]
    if not preprocessing.std:
        return torch.full((channels, 1, 1), -2.5), torch.full((channels, 1, 1), 2.5)
    mean, std = (torch.tensor(given).reshape(-1, 1, 1) for given in (preprocessing.mean, preprocessing.std))
    return -mean / std, (1 - mean) / std


def noise_images(preprocessing: Preprocessing, count: int, generator: torch.Generator) -> Tensor:
    """Return x_NCHW of noise whose amplitude falls with frequency, as that of photographs does, black to white.

    Source: vitq; 1/f is the law of natural images (Field, 1987).
    """
    channels, height, width = preprocessing.input_size
    white = torch.randn(count, channels, height, width, generator=generator)
    vertical, horizontal = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (vertical.square() + horizontal.square()).sqrt().clamp(min=1 / max(height, width))
    shaped = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(height, width))
    shaped = shaped / shaped.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    low, high = pixel_bounds(preprocessing)
    x_NCHW: Tensor = low + (0.5 + SPREAD * shaped).clamp(0.0, 1.0) * (high - low)
    return x_NCHW.float()


def similarity_entropy(tokens_BTC: Tensor) -> Tensor:
    """Return how differently tokens resemble each other: the differential entropy of their cosine similarities.

    One number, the mean over the batch: of ∫ -f log f with the Gaussian kernel density f between the least and the
    largest similarity, by the trapezoidal rule. Source: PSAQ-ViT (ECCV 2022, equations 5 to 7, constants of its code);
    that at most 4,096 similarities are taken is vitq's choice.
    """
    unit_BTC = torch.nn.functional.normalize(tokens_BTC, dim=-1)
    similar_BM = (unit_BTC @ unit_BTC.mT).flatten(1)
    similar_BM = similar_BM[:, :: -(-similar_BM.shape[1] // PAIRS) | 1]  # odd: not one column of the matrix
    low, high = (float(end) for end in similar_BM.detach().aminmax())
    place_P = torch.linspace(low, high, PLACES, device=similar_BM.device)
    apart_BPM = (place_P[None, :, None] - similar_BM[:, None]) / BANDWIDTH
    density_BP = (-0.5 * apart_BPM.square()).exp().mean(-1) / (BANDWIDTH * math.sqrt(2 * math.pi)) + 1e-4
    return torch.trapezoid(-density_BP * density_BP.log(), place_P, dim=-1).mean()


def roughness(x_BCHW: Tensor) -> Tensor:
    """Return for each image by how much neighbours differ: root mean squares in four directions, added up."""
    steps = (
        x_BCHW[..., :, :-1] - x_BCHW[..., :, 1:],
        x_BCHW[..., :-1, :] - x_BCHW[..., 1:, :],
        x_BCHW[..., 1:, :-1] - x_BCHW[..., :-1, 1:],
        x_BCHW[..., :-1, :-1] - x_BCHW[..., 1:, 1:],
    )
    return torch.stack([step.flatten(1).square().mean(1).clamp(min=1e-12).sqrt() for step in steps]).sum(0)

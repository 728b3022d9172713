"""How far two tensors of outputs are apart: pure functions."""

import torch
from torch.nn import functional as F

EPSILON = 1e-8


def mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference in float32."""
    return F.mse_loss(output.float(), target.float())


def relative_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the squared error relative to the target's energy."""
    return mean_square(output, target) / (target.float().square().mean() + EPSILON)


def divergence(logits_BK: torch.Tensor, target_BK: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return T² · KL(softmax(target / T) || softmax(logits / T)), averaged over the batch."""
    student = F.log_softmax(logits_BK.float() / temperature, -1)
    teacher = F.log_softmax(target_BK.float() / temperature, -1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def nearness(outputs_N: torch.Tensor, reference_N: torch.Tensor) -> dict[str, float]:
    """Return ``relative_error`` |y - r| / |r| and ``cosine`` y·r / |y||r| over all images where both are finite.

    Empty where there is no such image.
    """
    finite_N = (outputs_N.isfinite() & reference_N.isfinite()).flatten(1).all(1)
    if not bool(finite_N.any()):
        return {}
    y, r = outputs_N[finite_N].double().flatten(), reference_N[finite_N].double().flatten()
    least = torch.finfo(torch.float64).tiny
    error = float((y - r).norm() / r.norm().clamp(min=least))
    return {"relative_error": error, "cosine": float((y @ r) / (y.norm() * r.norm()).clamp(min=least))}

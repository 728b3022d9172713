"""How far outputs are apart, in one place: KL of logits, else the relative error of what the model gives."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

EPSILON = 1e-12


def relative_error(output: torch.Tensor, target: torch.Tensor) -> float:
    """Return |output - target|² / |target|² over all elements."""
    target = target.float()
    return float((output.float() - target).square().sum() / (target.square().sum() + EPSILON))


@dataclass(frozen=True)
class OutputDistance:
    """Distance of a model's outputs from those in floating point, ``reference_N``.

    Logits (N, K) of at least two classes: KL(softmax(reference) || softmax(outputs)), mean over images, in nats. Other
    outputs: squared error relative to the reference's energy.
    """

    reference_N: torch.Tensor

    @property
    def of_classes(self) -> bool:
        """Whether outputs are taken as logits."""
        return self.reference_N.ndim == 2 and self.reference_N.shape[1] > 1

    def __call__(self, outputs_N: torch.Tensor) -> float:
        """Return the distance of ``outputs_N``; infinity where they are not finite."""
        if not bool(torch.isfinite(outputs_N).all()):
            return float("inf")
        if not self.of_classes:
            return relative_error(outputs_N, self.reference_N)
        own, target = (F.log_softmax(logits.float(), -1) for logits in (outputs_N, self.reference_N))
        return max(float(F.kl_div(own, target, reduction="batchmean", log_target=True)), 0.0)

    def probe(self, outputs_B: torch.Tensor, images: slice, generator: torch.Generator) -> torch.Tensor:
        """Return a random scalar of outputs whose gradient g has E[(gᵀδ)²] = the distance of a small change δ, doubled.

        Its mean over images is meant. Logits: log p(y), y drawn from the reference's prediction (the Fisher
        information). Other outputs: a random projection.
        """
        if self.of_classes:
            draws_B1 = torch.multinomial(self.reference_N[images].float().softmax(-1).cpu(), 1, generator=generator)
            return outputs_B.float().log_softmax(-1).gather(-1, draws_B1.to(outputs_B.device)).sum()
        noise = torch.randn(outputs_B.shape, generator=generator).to(outputs_B.device)
        energy = self.reference_N.float().square().sum() / len(self.reference_N)
        return (outputs_B.float() * noise).sum() * (2 / (energy + EPSILON)).sqrt()

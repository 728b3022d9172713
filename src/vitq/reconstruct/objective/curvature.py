"""Curvature: how much an error at a segment's output changes the prediction, as a quadratic form δᵀ H δ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from pydantic import AfterValidator

from vitq.reconstruct.objective.gradients import Gradients
from vitq.registry import Registry

EPSILON = 1e-12


@dataclass(frozen=True)
class Curvature:
    """H as a diagonal, of mean 1, plus low-rank rows.

    ``diagonal_N`` has one row for all images or one row per image; of the error δ (or |δ| where ``absolute``),
    ``rows_R`` give the products a_r = u_r · δ and ``mixing_RR`` the form aᵀ M a.
    """

    diagonal_N: torch.Tensor
    rows_R: torch.Tensor | None = None
    mixing_RR: torch.Tensor | None = None
    absolute: bool = False

    def of(self, images: torch.Tensor) -> "Curvature":
        """Return the curvature of some images, by their indices."""
        if len(self.diagonal_N) == 1:
            return self
        return Curvature(self.diagonal_N[images.to(self.diagonal_N.device)], self.rows_R, self.mixing_RR, self.absolute)

    def low_rank_loss(self, error: torch.Tensor) -> torch.Tensor:
        """Return the mean over images of aᵀ M a."""
        assert self.rows_R is not None and self.mixing_RR is not None
        error = error.abs() if self.absolute else error
        a_NR = error.flatten(1) @ self.rows_R.flatten(1).T
        return ((a_NR @ self.mixing_RR) * a_NR).sum(1).mean()


Estimator = Callable[[Gradients], Curvature]


@dataclass(frozen=True)
class Estimate:
    """How a segment's curvature is estimated: ``make`` gives it one estimator, called again at every refresh.

    ``low_rank`` says that the curvature has rows beside its diagonal.
    """

    make: Callable[[], Estimator]
    low_rank: bool = False


NONE = "none"
CURVATURES: Registry[Estimate] = Registry("curvature", Estimate, reserved=[NONE])
EstimatorType = TypeVar("EstimatorType", bound=Estimator | type)


def register_curvature(name: str, *, low_rank: bool = False) -> Callable[[EstimatorType], EstimatorType]:
    """Register a function from ``Gradients`` to a ``Curvature``, for ``reconstruct.objective.curvature``.

    So is a class whose objects are such functions: each segment gets one, which may remember. ``low_rank`` says that
    its curvature has rows. Raises RecipeError where the name is taken.
    """
    return CURVATURES.register(
        name, lambda given: Estimate(given if isinstance(given, type) else lambda: given, low_rank)
    )


def make_estimator(name: str) -> Estimator:
    """Return what computes the curvature of one segment; called again at every refresh."""
    return CURVATURES[name].make()


CurvatureName = Annotated[str, AfterValidator(CURVATURES.option)]
"""A name of ``CURVATURES``, or "none"."""


@register_curvature("fisher")
def fisher(gradients: Gradients) -> Curvature:
    """Return the diagonal Fisher of every image. Source: BRECQ (arXiv 2102.05426).

    The paper's gradient is that of the task's loss; drawing the label from the teacher's prediction needs no labels.
    """
    return Curvature(_unit_mean(gradients.of_labels().square()))


@register_curvature("mean_fisher")
def mean_fisher(gradients: Gradients) -> Curvature:
    """Return the diagonal Fisher averaged over images: the same weights for every image, so less noise (vitq)."""
    return Curvature(_unit_mean(gradients.of_labels().square().mean(0, keepdim=True)))


@register_curvature("perturbed")
def perturbed(gradients: Gradients) -> Curvature:
    """Return |g(z + ε)| averaged over images: how strongly each element answers a small random error of all others.

    g is the gradient of KL to the teacher's prediction. Source: APHQ-ViT (arXiv 2504.02508), which takes
    |g(z + ε) - g(z - ε)| with one constant ε = 1e-6. Three choices are vitq's: normal noise, since a layer norm takes a
    constant out again and leaves rounding alone (on DeiT-Tiny a gradient 10,000 times smaller than noise of the same
    size gives); 1e-2 of z's root mean square, which float32 resolves; one side, since g(z) is zero.
    """
    z = gradients.target_N
    noise = torch.randn(z.shape, generator=gradients.generator).to(z.device)
    g = gradients.of_divergence(z + 1e-2 * z.square().mean().sqrt() * noise)
    return Curvature(_unit_mean(g.abs().mean(0, keepdim=True)))


@register_curvature("least_squares", low_rank=True)
def least_squares(gradients: Gradients) -> Curvature:
    """Return the diagonal and the rank-1 row that map the present errors to the present gradients by least squares.

    ĥ = Σ g δ / Σ δ², û = Σ g √(δᵀg) / Σ δᵀg over images. Source: LS-ViT (CVPR 2026); where sampling noise makes ĥ
    negative it is taken as zero (vitq).
    """
    z = gradients.student_N
    error, g = z - gradients.target_N, gradients.of_divergence(z)
    diagonal = ((g * error).sum(0, keepdim=True) / (error.square().sum(0, keepdim=True) + EPSILON)).clamp(min=0)
    along_N = (g * error).flatten(1).sum(1).clamp(min=0)
    row = (g.flatten(1) * along_N.sqrt()[:, None]).sum(0) / (along_N.sum() + EPSILON)
    return Curvature(_unit_mean(diagonal), row[None], torch.ones(1, 1, device=row.device))


@register_curvature("low_rank", low_rank=True)
class LowRank:
    """FIMA-Q's diagonal plus low rank: every call adds one row, taken at the student as it is then.

    Rows G = mean |g| and D = mean |δ| over images; diagonal mean(G), low rank (|δ| Gᵀ) (D Dᵀ)⁺ (|δ| Gᵀ)ᵀ.
    Source: FIMA-Q (arXiv 2506.11543); the pseudo-inverse, since the rows of D resemble each other, is vitq's.
    """

    def __init__(self) -> None:
        self.gradients_R: list[torch.Tensor] = []
        self.errors_R: list[torch.Tensor] = []

    def __call__(self, gradients: Gradients) -> Curvature:
        """Return the curvature of all rows so far."""
        z = gradients.student_N
        self.gradients_R.append(gradients.of_divergence(z).abs().mean(0))
        self.errors_R.append((z - gradients.target_N).abs().mean(0))
        rows_R, errors_R = torch.stack(self.gradients_R), torch.stack(self.errors_R).flatten(1)
        mixing_RR = torch.linalg.pinv(errors_R @ errors_R.T, hermitian=True)
        return Curvature(_unit_mean(rows_R.mean(0, keepdim=True)), rows_R, mixing_RR, absolute=True)


def _unit_mean(diagonal: torch.Tensor) -> torch.Tensor:
    return diagonal / (diagonal.mean() + EPSILON)

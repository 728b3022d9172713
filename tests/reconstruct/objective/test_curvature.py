"""Curvatures against models whose Fisher matrix is known."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from vitq.errors import RecipeError
from vitq.graph.outputs import as_outputs
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.objective.curvature import LowRank, fisher, least_squares, mean_fisher, perturbed
from vitq.reconstruct.objective.gradients import Gradients
from vitq.reconstruct.objective.terms import Batch, BlockTerm, LowRankTerm
from vitq.run.run import Run

IMAGES, CHANNELS, CLASSES = 400, 6, 4


@pytest.fixture
def gradients() -> Gradients:
    """A linear suffix whose channel 2 does nothing and whose channel 3 does most; small errors everywhere."""
    torch.manual_seed(0)
    suffix = nn.Linear(CHANNELS, CLASSES)
    with torch.no_grad():
        suffix.weight.mul_(torch.tensor([0.5, 0.5, 0.0, 4.0, 0.5, 0.5]))
    z = 0.3 * torch.randn(IMAGES, CHANNELS)
    student = z + 0.01 * torch.randn(IMAGES, CHANNELS)
    with torch.no_grad():
        logits = suffix(z)
    return Gradients(suffix, z, lambda: student, as_outputs(logits), 1.0, torch.Generator().manual_seed(0))


def exact_fisher(gradients: Gradients) -> torch.Tensor:
    """Wᵀ (diag p - p pᵀ) W per image."""
    assert isinstance(gradients.suffix, nn.Linear)
    weight = gradients.suffix.weight.detach()
    p = gradients.outputs_N["logits"].softmax(-1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return weight.T @ middle @ weight


def test_fisher_is_that_of_a_linear_suffix(gradients: Gradients) -> None:
    exact_C = exact_fisher(gradients).mean(0).diagonal()
    got = mean_fisher(gradients).diagonal_N
    assert got.shape == (1, CHANNELS) and float(got.mean()) == pytest.approx(1)
    torch.testing.assert_close(got[0], exact_C / exact_C.mean(), rtol=0.15, atol=0.02)
    per_image = fisher(replace(gradients, generator=torch.Generator().manual_seed(0))).diagonal_N
    assert per_image.shape == (IMAGES, CHANNELS)
    torch.testing.assert_close(per_image.mean(0), got[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimate", [mean_fisher, perturbed, least_squares, LowRank()])
def test_every_estimate_knows_which_channels_matter(gradients: Gradients, estimate: Callable[..., object]) -> None:
    diagonal = estimate(gradients).diagonal_N[0]  # type: ignore[attr-defined]
    assert int(diagonal.argmax()) == 3
    assert float(diagonal[2]) < 1e-3
    assert float(diagonal.min()) >= 0


def test_perturbation_is_seen_through_a_layer_norm() -> None:
    """Of Hε with normal ε the mean magnitude is √(2/π) times the norms of H's rows; a constant ε would give H1 = 0."""
    torch.manual_seed(0)
    z_NC = torch.randn(1, CHANNELS).repeat(IMAGES, 1)
    suffix = nn.Sequential(nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CLASSES))
    logits_NK = suffix(z_NC).detach()
    like_K = logits_NK[0].softmax(-1)
    hessian_CC = torch.func.hessian(lambda z: -(like_K * suffix(z).log_softmax(-1)).sum())(z_NC[0])
    assert float(hessian_CC.sum(1).detach().abs().max()) < 1e-5

    like = {"logits": logits_NK}
    got = perturbed(Gradients(suffix, z_NC, lambda: z_NC, like, 1.0, torch.Generator().manual_seed(0)))

    norms_C = hessian_CC.detach().norm(dim=1)
    torch.testing.assert_close(got.diagonal_N[0], norms_C / norms_C.mean(), rtol=0.15, atol=0.02)


def test_gradient_of_divergence_is_fisher_times_error_for_small_errors(gradients: Gradients) -> None:
    g = gradients.of_divergence(gradients.student_N)
    error = gradients.student_N - gradients.target_N
    expected = torch.einsum("ncd,nd->nc", exact_fisher(gradients), error)
    torch.testing.assert_close(g, expected, rtol=0.05, atol=2e-4)


def test_low_rank_grows_by_a_row_per_call_and_its_loss_is_the_written_form(gradients: Gradients) -> None:
    estimate = LowRank()
    estimate(gradients)
    curvature = estimate(gradients)
    assert curvature.rows_R is not None and len(curvature.rows_R) == 2
    target, output = gradients.target_N[:5], gradients.student_N[:5]
    rows, errors = curvature.rows_R, torch.stack(estimate.errors_R)
    a = (output - target).abs() @ rows.T
    expected = (a @ torch.linalg.pinv(errors @ errors.T) * a).sum(1).mean()
    batch = Batch(output, target, (), (), None, None, curvature)
    torch.testing.assert_close(LowRankTerm()(batch), expected, rtol=1e-3, atol=1e-6)


def test_block_term_weighs_and_leaves_out(gradients: Gradients) -> None:
    curvature = mean_fisher(gradients)
    batch = Batch(gradients.student_N, gradients.target_N, (), (), None, None, curvature)
    error = (gradients.student_N - gradients.target_N).square()
    torch.testing.assert_close(BlockTerm()(batch), (curvature.diagonal_N * error).mean())
    kept = BlockTerm(drop_smallest=0.5)(batch)
    weighed = (curvature.diagonal_N * error).flatten()
    largest = weighed.sort().values[len(weighed) // 2 :].sum() / len(weighed)
    torch.testing.assert_close(kept, largest, rtol=1e-2, atol=0)


QUICK = {"steps": 6, "batch": 16, "evaluation": {"held_out": 16}, "compute": {"precision": "float32"}}


@pytest.mark.parametrize(
    ("model", "objective", "options"),
    [
        ("vit", {"curvature": "fisher"}, {}),
        ("vit", {"curvature": "mean_fisher", "drop_smallest": 0.3}, {}),
        ("vit", {"curvature": "perturbed", "global": 0.1}, {}),
        ("vit", {"curvature": "least_squares", "low_rank": 1.0}, {}),
        ("swin", {"curvature": "low_rank", "low_rank": 1.0, "curvature_refreshes": 3}, {}),
        (
            "vit",
            {},
            {
                "evaluation": {"held_out": 16, "average": 0.9},
                "steps": 40,
                "learn": {"rounding": 1e-2, "activation_scales": 1e-2},
            },
        ),
    ],
    ids=str,
)
def test_every_weighing_trains(
    make_run: Callable[..., Run], model: str, objective: dict[str, object], options: dict[str, object]
) -> None:
    run = make_run(model)

    def error() -> float:
        with torch.no_grad():
            return float((run.student(run.images_NCHW) - run.teacher(run.images_NCHW)).square().mean())

    before = error()
    Reconstruct.model_validate({**QUICK, "objective": {"curvature_images": 16, **objective}, **options}).apply(run)
    assert error() < before


def test_weighing_layers_is_refused_with_what_to_do(make_run: Callable[..., Run]) -> None:
    with pytest.raises(RecipeError, match="unit, block or coarser"):
        weighed = {**QUICK, "schedule": ["layer"], "objective": {"curvature": "fisher"}}
        Reconstruct.model_validate(weighed).apply(make_run())

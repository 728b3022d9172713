import torch

from vitq.reconstruct.objective.distances import image_moments, moment_distance
from vitq.reconstruct.objective.terms import (
    DISTANCES,
    Batch,
    BlockTerm,
    FeatureTerm,
    Fusion,
    LocalTerm,
    OutputsTerm,
)
from vitq.tasks.distances import divergence


def batch(noise: float, by: str = "moments") -> Batch:
    torch.manual_seed(0)
    target, goal, tap = torch.randn(4, 5, 6), torch.randn(4, 7), torch.randn(4, 5, 3)
    shifted = [t + noise * torch.randn_like(t) for t in (target, goal, tap)]
    summary = DISTANCES[by].summary
    seen = tap if summary is None else summary(tap, len(tap))
    return Batch(shifted[0], target, (shifted[2],), (seen,), shifted[1], goal)


def test_every_term_is_zero_for_equal_tensors_and_positive_otherwise() -> None:
    terms = [(term, "moments") for term in (BlockTerm(), FeatureTerm(), OutputsTerm())]
    for term, by in [*terms, *((LocalTerm(by), by) for by in DISTANCES)]:
        assert float(term(batch(0.0, by))) < 1e-6
        assert float(term(batch(0.5, by))) > 1e-3


def test_moments_see_a_shift_but_not_a_permutation_of_tokens() -> None:
    x_BTC = torch.randn(2, 9, 4)
    target = image_moments(x_BTC, len(x_BTC))
    assert float(moment_distance(x_BTC.flip(1), target)) < 1e-10
    assert float(moment_distance(x_BTC + 1, target)) > 0.1


def test_divergence_equals_the_definition() -> None:
    p, q = torch.randn(3, 5), torch.randn(3, 5)
    t = 4.0
    teacher, student = (p / t).softmax(-1), (q / t).softmax(-1)
    expected = t * t * (teacher * (teacher.log() - student.log())).sum(-1).mean()
    assert torch.allclose(divergence(q, p, t), expected, atol=1e-6)


def test_fusion_starts_at_the_sum_of_its_weights_and_keeps_its_scales() -> None:
    fusion = Fusion({"block": (1.0, BlockTerm()), "global": (2.0, FeatureTerm()), "off": (0.0, OutputsTerm())})
    assert abs(float(fusion(batch(0.5))) - 3.0) < 1e-5
    assert set(fusion.first) == {"block", "global"}
    assert float(fusion(batch(0.25))) < 1.0
    fusion.rescale()
    assert abs(float(fusion(batch(0.25))) - 3.0) < 1e-5

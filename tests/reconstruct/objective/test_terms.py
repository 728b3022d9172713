import torch

from vitq.reconstruct.objective.distances import image_moments, moment_distance, pair_divergence
from vitq.reconstruct.objective.fusion import Fusion
from vitq.reconstruct.objective.terms import (
    DISTANCES,
    Batch,
    BlockTerm,
    FeatureTerm,
    LocalTerm,
    OutputsTerm,
    RankingTerm,
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


def test_pairs_are_judged_by_the_chance_that_one_is_ahead_of_the_other() -> None:
    target, logits = torch.tensor([[3.0, 1.0, 0.0, -9.0]]), torch.tensor([[1.0, 2.0, 0.0, 50.0]])
    expected = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        p, q = (torch.sigmoid(y[0, i] - y[0, j]) for y in (target, logits))
        expected.append(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    assert torch.allclose(pair_divergence(logits, target, 3), torch.stack(expected).mean(), atol=1e-6)
    assert float(pair_divergence(target + 5, target, 5)) < 1e-7  # only differences count


def test_ranking_reads_outputs_or_makes_them_of_the_feature() -> None:
    torch.manual_seed(0)
    head, seen = torch.nn.Linear(7, 6), batch(0.5)
    assert seen.goal is not None and isinstance(seen.goal, torch.Tensor) and isinstance(seen.target_goal, torch.Tensor)
    of_feature = RankingTerm(head)(seen)
    outputs = Batch(seen.output, seen.target, (), (), head(seen.goal), head(seen.target_goal))
    assert torch.allclose(of_feature, RankingTerm()(outputs)) and of_feature.requires_grad
    assert float(RankingTerm(head)(batch(0.0))) < 1e-6


def test_balanced_by_gradients_each_term_pulls_the_output_as_hard_as_its_weight_says() -> None:
    torch.manual_seed(0)
    tap = torch.randn(4, 5, 3, requires_grad=True)

    def one() -> Batch:
        given = batch(0.5)
        output = given.output.requires_grad_()
        goal = 30 * output.mean(1)[:, :3].repeat(1, 3)[:, :7]
        return Batch(output, given.target, (tap * 1,), given.target_taps, goal, given.target_goal)

    terms = {"block": (1.0, BlockTerm()), "global": (0.5, FeatureTerm()), "local": (0.1, LocalTerm())}
    fusion = Fusion(terms, "gradient")
    fusion.probe(one() for _ in range(4))
    norms = {}
    for name in ("block", "global"):
        seen = one()
        loss = fusion.terms[name][1](seen) * fusion.terms[name][0] / fusion.first[name]
        norms[name] = float(torch.autograd.grad(loss, seen.output)[0].norm())
    assert abs(norms["global"] / norms["block"] - 0.5) < 1e-3
    assert abs(float(fusion(one())) - 1.6) < 1e-3  # what does not see the end starts at its weight
    by_value = Fusion(terms)
    by_value(one())
    assert fusion.first["global"] / fusion.first["block"] != by_value.first["global"] / by_value.first["block"]

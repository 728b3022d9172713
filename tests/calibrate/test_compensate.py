"""Refitting and column-wise rounding lower the output error, on the data and on data never seen."""

from collections.abc import Callable

import torch

from vitq.calibrate import Calibrate, Compensate, Insert
from vitq.calibrate.compensate import damped, refit, round_columns
from vitq.graph import Graph
from vitq.quantizers import Quantizer
from vitq.run import Run

MakeRun = Callable[..., Run]


def rows(n: int, i: int, seed: int) -> torch.Tensor:
    basis = torch.randn(i, i, generator=torch.Generator().manual_seed(99)) / i**0.5
    noise = torch.randn(n, i, generator=torch.Generator().manual_seed(seed))
    return (noise @ basis * torch.linspace(0.1, 4, i)).double()


def test_column_wise_rounding_beats_rounding_to_nearest_on_unseen_rows() -> None:
    x, unseen, w = rows(600, 32, 0), rows(600, 32, 1), rows(16, 32, 2)
    step = 0.5
    new = round_columns(w, damped(x.T @ x, 0.01), lambda w_O, column: (w_O / step).round() * step)
    nearest = (w / step).round() * step
    assert torch.equal(new, (new / step).round() * step)
    errors = [float((unseen @ (v - w).T).square().sum()) for v in (new, nearest)]
    assert errors[0] < 0.5 * errors[1]


def test_refit_makes_up_for_a_distorted_input_but_never_trusts_few_rows() -> None:
    w = rows(16, 32, 2)
    for n, gain in ((2000, 0.7), (20, 1.05)):
        x, unseen = rows(n, 32, 0), rows(2000, 32, 1)
        now, unseen_now = x.clamp(-1, 2), unseen.clamp(-1, 2)
        best, gram = refit(w, x, now, (0.01, 0.1, 1.0, 10.0, 1000.0))
        assert gram.shape == (32, 32)
        after = float((unseen_now @ best.T - unseen @ w.T).square().sum())
        before = float((unseen_now @ w.T - unseen @ w.T).square().sum())
        assert after < gain * before


@torch.no_grad()
def test_the_step_lowers_the_models_error_and_leaves_weights_on_their_grid(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit, "w3a4", images=48)
    Insert().apply(run)
    Calibrate(images=16, weights="mse", activations="mse").apply(run)
    unseen = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    truth = vit(unseen)
    before = float((run.student(unseen) - truth).square().mean())
    Compensate(images=48).apply(run)
    assert float((run.student(unseen) - truth).square().mean()) < 0.8 * before
    for site in (s for s in vit.sites.values() if s.is_weight):
        quantizer, weight = run.student.quantizers[site.name], run.student.parameter(site.node)[1]
        assert isinstance(quantizer, Quantizer)
        torch.testing.assert_close(quantizer(weight), weight, rtol=1e-5, atol=1e-6)

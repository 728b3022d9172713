"""The closed forms against references in double precision."""

import pytest
import torch

from vitq.compensate.rounding import bias_change, channel_factors, descend, moments, round_columns, target

SCALE = 0.25


def inputs(rows: int = 200, width: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_TI = torch.randn(rows, width, generator=generator) @ torch.randn(width, width, generator=generator) + 1
    return x_TI, (x_TI / 0.7).round() * 0.7, torch.randn(4, width, generator=generator)


def nearest(w_O1: torch.Tensor, place: int) -> torch.Tensor:
    return (w_O1 / SCALE).round() * SCALE


def output_error(w_OI: torch.Tensor, rounded_OI: torch.Tensor, x_TI: torch.Tensor, x_hat_TI: torch.Tensor) -> float:
    difference = (x_TI - x_TI.mean(0)) @ w_OI.T - (x_hat_TI - x_hat_TI.mean(0)) @ rounded_OI.T
    return float(difference.square().sum())


def test_the_target_at_full_strength_is_the_least_squares_solution() -> None:
    x_TI, x_hat_TI, w_OI = inputs()
    wanted_TO = (x_TI - x_TI.mean(0)).double() @ w_OI.double().T
    expected = torch.linalg.lstsq((x_hat_TI - x_hat_TI.mean(0)).double(), wanted_TO).solution.T
    found = target(w_OI, moments(x_hat_TI, x_TI), damping=1e-9, strength=1.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_without_strength_the_target_is_the_weight() -> None:
    x_TI, x_hat_TI, w_OI = inputs()
    assert target(w_OI, moments(x_hat_TI, x_TI), damping=0.01, strength=0.0) is w_OI


def test_columns_are_rounded_as_in_the_papers_algorithm() -> None:
    x_TI, _, w_OI = inputs()
    h_II = moments(x_TI, x_TI).damped(0.01)
    order_I = h_II.diagonal().argsort(descending=True)
    rest, left = w_OI.double()[:, order_I], h_II[order_I][:, order_I]
    expected = torch.empty_like(rest)
    for place in range(rest.shape[1]):  # the optimal brain surgeon's update, with the inverse taken anew every time
        inverse = left.inverse()
        expected[:, place] = nearest(rest[:, place], place)
        error_O = (rest[:, place] - expected[:, place]) / inverse[0, 0]
        rest[:, place:] -= error_O[:, None] * inverse[0]
        left = left[1:, 1:]
    found = round_columns(w_OI, h_II, nearest)
    torch.testing.assert_close(found[:, order_I].double(), expected)


@pytest.mark.parametrize("width", [6, 70])
def test_the_output_is_nearer_than_with_the_nearest_codes(width: int) -> None:
    x_TI, x_hat_TI, w_OI = inputs(width=width)
    known = moments(x_hat_TI, x_TI)
    rounded_OI = round_columns(target(w_OI, known, 0.01, 1.0), known.damped(0.01), nearest)
    gptq_OI = round_columns(w_OI, known.damped(0.01), nearest)
    errors = [output_error(w_OI, w, x_TI, x_hat_TI) for w in (rounded_OI, gptq_OI, nearest(w_OI, 0))]
    assert errors == sorted(errors)
    assert torch.equal(rounded_OI, nearest(rounded_OI, 0))


def test_an_input_that_is_always_zero_harms_nobody() -> None:
    x_TI, x_hat_TI, w_OI = inputs()
    x_TI[:, 2] = x_hat_TI[:, 2] = 0
    known = moments(x_hat_TI, x_TI)
    rounded_OI = round_columns(target(w_OI, known, 0.01, 1.0), known.damped(0.01), nearest)
    assert bool(rounded_OI.isfinite().all())


def test_the_bias_keeps_the_mean_output() -> None:
    x_TI, x_hat_TI, w_OI = inputs()
    rounded_OI = nearest(w_OI, 0)
    change_O = bias_change(w_OI, rounded_OI, moments(x_hat_TI, x_TI))
    torch.testing.assert_close((x_hat_TI @ rounded_OI.T + change_O).mean(0), (x_TI @ w_OI.T).mean(0))


def test_descent_ends_where_no_column_alone_can_do_better() -> None:
    x_TI, _, w_OI = inputs()
    h_II = moments(x_TI, x_TI).damped(0.01)

    def loss(rounded_OI: torch.Tensor) -> torch.Tensor:
        error_OI = (rounded_OI - w_OI).double()
        return ((error_OI @ h_II) * error_OI).sum(1)

    start_OI = nearest(w_OI, 0)
    found_OI = descend(start_OI, w_OI, h_II, nearest, 20)
    assert torch.equal(descend(start_OI, w_OI, h_II, nearest, 0), start_OI)
    assert float(loss(found_OI).sum()) < float(loss(start_OI).sum())
    for place in range(w_OI.shape[1]):
        for step in (-SCALE, SCALE):
            moved_OI = found_OI.clone()
            moved_OI[:, place] += step
            assert bool((loss(moved_OI) >= loss(found_OI) - 1e-6).all())


def test_the_factor_of_a_channel_is_that_of_least_squares() -> None:
    x_TI, x_hat_TI, w_OI = inputs()
    rounded_OI = 0.8 * nearest(w_OI, 0)
    true_TO = ((x_TI - x_TI.mean(0)) @ w_OI.T).double()
    given_TO = ((x_hat_TI - x_hat_TI.mean(0)) @ rounded_OI.T).double()
    expected_O = (true_TO * given_TO).sum(0) / given_TO.square().sum(0)
    found_O = channel_factors(w_OI, rounded_OI, moments(x_hat_TI, x_TI))
    torch.testing.assert_close(found_O.double(), expected_O.clamp(0.5, 2), rtol=1e-4, atol=1e-4)
    assert torch.equal(channel_factors(w_OI, 0 * w_OI, moments(x_hat_TI, x_TI)), torch.ones(len(w_OI)))

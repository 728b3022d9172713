"""Codebooks: tables by k-means, for weights alone."""

import numpy as np
import pytest
import torch

from vitq.calibrate.assign import search_alone
from vitq.calibrate.candidates import SearchSpec
from vitq.calibrate.member import Member
from vitq.calibrate.output_search import MOVES, weight_score
from vitq.calibrate.samples import samples_of
from vitq.calibrate.searches import local_search
from vitq.errors import CalibrationError
from vitq.graph import Role, Site
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer
from vitq.quantizers.kmeans import k_means

CHANNEL = Format("codebook", 3, Granularity.CHANNEL)


def heavy(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator).pow(-0.4)


def calibrated(w_OI: torch.Tensor, form: Format = CHANNEL) -> Quantizer:
    quantizer = make_quantizer(form, 0)
    search_alone(Member(Site("w", "w", Role.WEIGHT, ()), w_OI, quantizer), "mse")
    return quantizer


def reference(x: np.ndarray, w: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Weighted Lloyd of one group, by a loop."""
    for _ in range(25):
        own = np.abs(x[:, None] - centres).argmin(1)
        centres = np.array(
            [np.average(x[own == k], weights=w[own == k]) if (own == k).any() else c for k, c in enumerate(centres)]
        )
    return np.sort(centres)


def test_k_means_is_the_better_of_two_loops_in_numpy() -> None:
    x, w = heavy(3, 200), torch.rand(3, 200, generator=torch.Generator().manual_seed(1)) + 0.1
    found = k_means(x, w, 6).numpy()
    for values, weights, table in zip(x.double().numpy(), w.double().numpy(), found, strict=True):
        order = values.argsort()
        mass = weights[order].cumsum()
        places = np.searchsorted(mass, mass[-1] * (np.arange(6) + 0.5) / 6)
        starts = np.linspace(values.min(), values.max(), 6), values[order][places]
        tables = [reference(values, weights, start) for start in starts]
        errors = [(np.abs(values[:, None] - t).min(1) ** 2 * weights).sum() for t in (*tables, table)]
        np.testing.assert_allclose(errors[2], min(errors[:2]), rtol=1e-9)


def test_it_has_less_error_than_affine_and_the_same_weights_give_the_same_table() -> None:
    w = heavy(8, 300)
    affine = calibrated(w, Format("affine", 3, Granularity.CHANNEL))
    quantizer = calibrated(w)
    assert (quantizer(w) - w).square().sum() < 0.7 * (affine(w) - w).square().sum()
    assert torch.equal(calibrated(w).get_parameter("table"), quantizer.get_parameter("table"))
    assert quantizer.get_parameter("table").shape == (8, 1, 8)
    assert quantizer.integer_view() is None


def test_the_output_search_stretches_tables_and_never_ends_worse() -> None:
    w, x = heavy(6, 40), torch.randn(200, 40, generator=torch.Generator().manual_seed(2))
    spec, samples = SearchSpec(CHANNEL), samples_of(w, 0)
    start = spec.fitted(samples.values_GN, samples.weights_GN)
    assert start is not None
    score = weight_score(spec, w, x, x)
    assert (score(local_search(spec, start, score, MOVES)) <= score(start)).all()


def test_a_channel_of_one_value_has_a_table_of_it() -> None:
    w = torch.cat((torch.full((1, 50), 0.3), heavy(1, 50)))
    assert torch.equal(calibrated(w)(w)[0], w[0])


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"table of shape \(2, 1, 4\) .* end in \(8,\)"):
        make_quantizer(CHANNEL, 0).set_parameters(table=torch.zeros(2, 1, 4))


def test_gradients_reach_the_weight_inside_the_table_alone() -> None:
    w = heavy(2, 50)
    quantizer, w = calibrated(w), (3 * w).requires_grad_()
    quantizer(w).sum().backward()
    table = quantizer.get_parameter("table")
    inside = (w >= table[..., 0]) & (w <= table[..., -1])
    assert w.grad is not None and torch.equal(w.grad, inside.float())

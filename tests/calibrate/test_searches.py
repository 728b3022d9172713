"""Searches on tensors: against brute force, and against one another."""

import itertools

import pytest
import torch

from vitq.calibrate.candidates import Candidates, SearchSpec
from vitq.calibrate.samples import largest, quantiles, samples_of
from vitq.calibrate.searches import SEARCHES, best, clip_grid, ends, tensor_score
from vitq.quantizers import GRANULARITIES, Format, Granularity, make_quantizer

FORMATS = [
    Format("affine", bits, granularity, symmetric)
    for bits, granularity, symmetric in itertools.product(
        (3, 4, 8), (Granularity.TENSOR, Granularity.CHANNEL), (False, True)
    )
] + [Format(name, 4, granularity) for name in ("log2", "log_sqrt2") for granularity in GRANULARITIES[:2]]


def heavy_tailed(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    return x * torch.rand(shape, generator=generator).pow(-0.4)


def error(grid: Candidates, spec: SearchSpec, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Squared error by the quantizer module itself, per group."""
    quantizer = make_quantizer(spec.format, axis)
    shape = (-1, 1) if axis == 0 else ()
    quantizer.set_parameters(**grid.shaped(*shape))
    squared = (quantizer(x) - x).square()
    return squared.sum(1) if axis == 0 else squared.sum()[None]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_each_search_is_at_least_as_good_as_the_simpler_one(form: Format) -> None:
    axis = None if form.granularity == Granularity.TENSOR else 0
    x = heavy_tailed(6, 700)
    x = x.abs() / x.max() if form.name.startswith("log") else x
    spec, rows = SearchSpec(form), samples_of(x, axis)
    minmax, percentile, mse = (error(SEARCHES[s](spec, rows), spec, x, axis) for s in ("minmax", "percentile", "mse"))
    slack = 1 + 1e-4
    assert (percentile <= minmax * slack).all()
    assert (mse <= percentile * slack).all()
    if form.bits <= 4 and form.name == "affine":
        assert mse.sum() < 0.8 * minmax.sum()


def test_a_higher_exponent_clips_less() -> None:
    samples = samples_of(heavy_tailed(6, 700), 0)
    form = Format("affine", 4, Granularity.CHANNEL)
    widths = []
    for exponent in (1.5, 2.0, 3.0, 8.0):
        low_G, high_G = SearchSpec(form).range(SEARCHES["mse"](SearchSpec(form, exponent=exponent), samples))
        widths.append(float((high_G - low_G).mean()))
    assert widths == sorted(widths) and widths[-1] > 1.5 * widths[0]
    squared = tensor_score(SearchSpec(form), samples)(SEARCHES["mse"](SearchSpec(form), samples))
    other = tensor_score(SearchSpec(form), samples)(SEARCHES["mse"](SearchSpec(form, exponent=3), samples))
    assert bool((squared <= other * 1.0001).all())


def test_a_widened_range_grows_by_a_quarter_but_not_beyond_zero() -> None:
    x = torch.stack((torch.linspace(-1, 3, 50), torch.linspace(0, 2, 50), torch.linspace(-4, -1, 50)))
    spec = SearchSpec(Format("affine", 8, Granularity.CHANNEL))
    low_1G, high_1G = spec.range(SEARCHES["widened"](spec, samples_of(x, 0)))
    torch.testing.assert_close(low_1G[0], torch.tensor([-2.0, 0, -5]), atol=0.03, rtol=0)
    torch.testing.assert_close(high_1G[0], torch.tensor([4.0, 2.5, 0]), atol=0.03, rtol=0)


def test_mse_is_close_to_brute_force_over_all_zero_points() -> None:
    x = heavy_tailed(1, 4000)[0] + 0.7
    spec = SearchSpec(Format("affine", 3))
    found = float(error(SEARCHES["mse"](spec, samples_of(x, None)), spec, x, None))
    scales = torch.linspace(0.02, 1, 300) * float(x.max() - x.min()) / 7
    scales, zeros = (t.reshape(-1, 1) for t in torch.meshgrid(scales, torch.arange(8.0), indexing="ij"))
    grid = Candidates({"scale": scales, "zero_point": zeros})
    brute = float(tensor_score(spec, samples_of(x, None))(grid).min())
    assert found <= brute * 1.03


def test_min_max_covers_the_range_and_a_search_per_channel_equals_channels_on_their_own() -> None:
    x = heavy_tailed(5, 300)
    spec = SearchSpec(Format("affine", 4, Granularity.CHANNEL))
    low, high = spec.range(SEARCHES["minmax"](spec, samples_of(x, 0)))
    half = (high - low) / 15 / 2 + 1e-6
    assert (low <= x.amin(1) + half).all() and (high >= x.amax(1) - half).all()
    together = SEARCHES["mse"](spec, samples_of(x, 0))
    alone = [SEARCHES["mse"](spec, samples_of(x[i : i + 1], 0)) for i in range(5)]
    assert torch.equal(together["scale"][0], torch.cat([grid["scale"][0] for grid in alone]))


def test_ranges_need_not_hold_zero_when_they_may_not() -> None:
    x = torch.linspace(4, 5, 64).reshape(1, -1)
    free = SearchSpec(Format("affine", 4, Granularity.CHANNEL), must_hold_zero=False)
    bound = SearchSpec(Format("affine", 4, Granularity.CHANNEL))
    rows = samples_of(x, 0)
    errors = [float(error(SEARCHES["mse"](t, rows), t, x, 0)) for t in (free, bound)]
    assert errors[0] < errors[1] / 10


def test_a_channel_anywhere_without_spread_gets_a_usable_scale() -> None:
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    x[2] = 3.0
    spec = SearchSpec(Format("affine", 4, Granularity.CHANNEL), must_hold_zero=False)
    grid = SEARCHES["mse"](spec, samples_of(x, 0))
    assert float(grid["scale"].max() / grid["scale"].min()) < 1e5
    assert float(error(grid, spec, x, 0)[2]) < 1e-4


def test_the_clip_grid_is_scored_like_a_loop_over_the_quantizer() -> None:
    x = heavy_tailed(3, 50)
    spec, rows = SearchSpec(Format("affine", 3, Granularity.CHANNEL)), samples_of(x, 0)
    grid = clip_grid(spec, *ends(spec, rows))
    looped = torch.stack([error(grid.part(k, k + 1), spec, x, 0) for k in range(len(grid))])
    score = tensor_score(spec, rows)
    torch.testing.assert_close(score(grid), looped, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(best(grid, score)[1], looped.amin(0), rtol=1e-4, atol=1e-5)


def test_thinned_rows_keep_the_tails_and_the_mass() -> None:
    x = heavy_tailed(2, 100_000)
    rows = samples_of(x, 0, limit=1 << 13)
    assert rows.values_GN.numel() < 20_000
    assert torch.equal(rows.high_G, x.amax(1)) and torch.equal(rows.low_G, x.amin(1))
    assert torch.equal(rows.values_GN[:, -256:], x.topk(256).values)
    torch.testing.assert_close(rows.weights_GN.sum(1), torch.full((2,), 100_000.0), rtol=1e-4, atol=0)
    levels = torch.tensor([0.5, 0.99, 0.9999])
    exact = torch.stack([x.quantile(level, dim=1) for level in levels])
    torch.testing.assert_close(quantiles(rows, levels), exact, rtol=0.05, atol=0.05)


def test_the_largest_values_are_exact_for_any_length() -> None:
    x = heavy_tailed(3, 64 * 50 + 17)
    for k in (1, 7, 49, 60):
        assert torch.equal(largest(x, k), x.topk(k, dim=1).values)

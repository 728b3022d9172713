"""Formats of the field's papers: values against NumPy, what their searches find, packing, and integers."""

from itertools import combinations

import numpy as np
import pytest
import torch

from vitq.calibrate.assign import search_alone
from vitq.calibrate.candidates import SearchSpec
from vitq.calibrate.member import Member
from vitq.calibrate.output_search import MOVES, product_score, weight_score
from vitq.calibrate.samples import samples_of
from vitq.calibrate.searches import SEARCHES, local_search
from vitq.errors import RecipeError
from vitq.graph import Role, Site
from vitq.quantizers import FORMATS, Format, Granularity, Quantizer, fake_quantize, make_quantizer, pack, unpack
from vitq.quantizers.subset import UNIVERSE
from vitq.quantizers.subset_search import best_subset

LOGARITHMS, FACTORS, WEIGHTS = (
    ("adalog", "shift_uniform_log2"),
    ("power_of_two_factor", "whole_factor", "outlier_channels"),
    ("pwlq", "subset"),
)
POWERS = [2.0**power for power in range(8)]
NAMES = (*LOGARITHMS, "matthew", *FACTORS, *WEIGHTS)
ONE_SIDED = ("shift_uniform_log2", "matthew")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator).pow(-0.3)


def probabilities(*shape: int) -> torch.Tensor:
    return (3 * drawn(*shape)).softmax(-1)


def searched(x: torch.Tensor, form: Format, axis: int | None, search: str = "mse") -> Quantizer:
    quantizer = make_quantizer(form, axis)
    search_alone(Member(Site("x", "x", Role.OTHER, ()), x, quantizer), search)
    return quantizer


def error(quantizer: Quantizer, x: torch.Tensor) -> float:
    return float((quantizer(x) - x).square().mean())


def numbers(quantizer: Quantizer) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in quantizer.parameters_dict().items()}


def reference_table(quantizer: Quantizer) -> np.ndarray:
    """Return the values of all codes in float64, along a last dimension of their own."""
    qmax, p = quantizer.format.qmax, numbers(quantizer)
    scale, k = p["scale"][..., None], np.arange(qmax + 1, dtype=np.float64)
    match quantizer.format.name:
        case "adalog":
            steps = k * p["base"][..., None]
            levels = 2 * qmax
            power = np.rint(2.0 ** (-(steps % 37) / 37) * levels) / levels
            powers = np.where(k == qmax, 0.0, 2.0 ** -(steps // 37) * power)
            return powers * scale - p["shift"][..., None]
        case "shift_uniform_log2":
            shift = p["shift"][..., None]
            first = np.log2(1 + shift)
            return scale * (2.0 ** np.rint(first - k * (first - np.log2(shift)) / qmax) - shift)
        case "matthew":
            return np.where(k == 0, 0.0, k + p["skipped"][..., None]) * scale
        case "power_of_two_factor" | "whole_factor":
            return (k - np.rint(p["zero_point"])[..., None]) * scale * p["factor"][..., None]
        case "outlier_channels":
            return (k - np.rint(p["zero_point"])) * scale * np.where(p["outlier"] == 1, p["ratio"], 1.0)[..., None]
        case "pwlq":
            middle, tail = 2 ** (quantizer.format.bits - 1), 2 ** (quantizer.format.bits - 2)
            fine = np.arange(middle) - (middle - 1) / 2
            coarse = fine[-1] + p["ratio"][..., None] * np.arange(1, tail + 1)
            return (
                np.concatenate((-coarse[..., ::-1], np.broadcast_to(fine, (*coarse.shape[:-1], middle)), coarse), -1)
                * scale
            )
        case _:
            return np.concatenate((-p["levels"][..., ::-1], p["levels"]), -1) * scale


def reference_codes(quantizer: Quantizer, x: np.ndarray) -> np.ndarray:
    """Return the nearest value's code, or of a logarithm the code that is nearest in it."""
    p, qmax = quantizer.parameters_dict(), quantizer.format.qmax
    with np.errstate(divide="ignore"):
        if quantizer.format.name == "adalog":
            scale, shift, base = (p[name].numpy() for name in ("scale", "shift", "base"))
            raw = np.rint(-np.log2(np.maximum((x + shift) / scale, 0)) / (base / np.float32(37)))
            return np.clip(raw, 0, qmax).astype(np.uint8)
        if quantizer.format.name == "shift_uniform_log2":
            scale, shift = p["scale"].double().numpy(), p["shift"].double().numpy()
            first = np.log2(1 + shift)
            raw = (first - np.log2(np.maximum(x / scale, 0) + shift)) / ((first - np.log2(shift)) / qmax)
            return np.clip(np.rint(raw), 0, qmax).astype(np.uint8)
    return np.abs(x[..., None].astype(np.float64) - reference_table(quantizer)).argmin(-1).astype(np.uint8)


def cases() -> list[tuple[str, int, Granularity]]:
    kinds = [Granularity.TENSOR, Granularity.CHANNEL]
    pairs = [(name, bits, kind) for name in NAMES for bits in (2, 3, 4, 6, 8) for kind in kinds]
    pairs += [
        (name, 4, kind) for name in (*LOGARITHMS, "matthew", *FACTORS) for kind in (Granularity.HEAD, Granularity.TOKEN)
    ]
    return [(name, bits, kind) for name, bits, kind in pairs if name != "subset" or bits <= 4]


@pytest.mark.parametrize(("name", "bits", "granularity"), cases())
def test_codes_and_values_match_numpy(name: str, bits: int, granularity: Granularity) -> None:
    axes = {Granularity.TENSOR: None, Granularity.CHANNEL: -1, Granularity.HEAD: -3, Granularity.TOKEN: -2}
    axis = axes[granularity]
    if name in WEIGHTS:
        x, axis = drawn(6, 40, seed=bits), None if axis is None else 0
    else:
        x = probabilities(2, 3, 5, 6) if name in ONE_SIDED else drawn(2, 3, 5, 6, seed=bits)
    quantizer = searched(x, Format(name, bits, granularity), axis)
    x = 1.3 * x  # beyond the calibrated range, too
    codes, values = quantizer.encode(x), quantizer.decode(quantizer.encode(x))
    assert torch.equal(quantizer(x), values) and torch.equal(quantizer(x.requires_grad_()).detach(), values)
    assert torch.equal(unpack(pack(codes, bits), bits, codes.shape), codes)
    table = np.broadcast_to(reference_table(quantizer), (*codes.shape, quantizer.format.qmax + 1))
    own = np.take_along_axis(table, codes.numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(values.numpy(), own, rtol=1e-5, atol=1e-6 * np.abs(table).max())
    nearest = reference_codes(quantizer, x.detach().numpy())
    near = np.take_along_axis(table, nearest[..., None].astype(int), -1)[..., 0]
    wrong = np.abs(own - near) > 1e-6 * np.abs(table).max()  # not the codes: two may have one value
    assert wrong.mean() <= 0.01, "but for what float32 rounds to the other side"
    if name not in LOGARITHMS:
        distance = np.abs(own - x.detach().numpy()) - np.abs(near - x.detach().numpy())
        assert distance.max() <= 1e-5 * np.abs(table).max()


@pytest.mark.parametrize("name", NAMES)
def test_values_grow_with_x_and_stay_where_they_are(name: str) -> None:
    x = drawn(4, 300).abs() if name in ONE_SIDED else drawn(4, 300)
    quantizer = searched(x, Format(name, 4), None)
    line = torch.linspace(-2, 1.2, 2001) * x.abs().max()
    assert bool((quantizer(line).diff() >= 0).all())
    if name != "adalog":  # its powers are rounded after the logarithm
        assert torch.equal(quantizer(quantizer(line)), quantizer(line))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_one_inside_and_the_scale_s_by_the_law_of_values_that_grow_with_it(name: str) -> None:
    """x̂ + o = s f((x + o) / s) for an offset o of its own: so dx̂/ds = (x̂ + o - inside (x + o)) / s."""
    x = drawn(5, 60).abs() if name in ONE_SIDED else drawn(5, 60)
    form = Format(name, 3, Granularity.CHANNEL)
    quantizer = searched(x, form, 0 if name in WEIGHTS else -1)
    x = (1.5 * x).requires_grad_()
    p = {key: tensor.requires_grad_() for key, tensor in quantizer.parameters_dict().items()}
    g = drawn(5, 60, seed=2)
    y = fake_quantize(quantizer.codec, x, form.qmax, p)
    found = torch.autograd.grad((y * g).sum(), (x, *p.values()), allow_unused=True)
    low, high = quantizer.codec.value_range(form.qmax, p)
    inside = (x >= low) & (x <= high)
    assert bool(inside.any()) and not bool(inside.all())
    assert torch.equal(found[0], g * inside)
    gradients = dict(zip(p, found[1:], strict=True))
    offset = p.get("shift", torch.zeros(())) if name == "adalog" else torch.zeros(())
    wanted = (g * (y + offset - (x + offset) * inside)).detach() / p["scale"]
    torch.testing.assert_close(gradients["scale"], wanted.sum_to_size(p["scale"].shape), rtol=1e-3, atol=1e-3)
    if "zero_point" in p:
        steps = quantizer.resolution(x)
        wanted = -(g * ~inside * steps).sum_to_size(p["zero_point"].shape)
        torch.testing.assert_close(gradients["zero_point"], wanted, rtol=1e-4, atol=1e-4)
    others = {key for key, gradient in gradients.items() if gradient is not None} - {"scale", "zero_point"}
    assert not others


def test_the_base_is_searched_as_well_as_every_base_and_scale_of_a_grid() -> None:
    x = probabilities(2000, 8)
    quantizer = searched(x, Format("adalog", 4), None)
    scales, bases = (
        t.flatten() for t in torch.meshgrid(torch.linspace(0.5, 1.1, 25), torch.arange(10.0, 80), indexing="ij")
    )
    p = {"scale": scales[:, None], "base": bases[:, None], "shift": torch.zeros_like(scales)[:, None]}
    codec, flat = quantizer.codec, x[:400].reshape(1, -1)
    brute = (codec.dequantize(codec.quantize(flat, 15, p).clamp(0, 15), 15, p) - flat).square().mean(1).min()
    assert error(quantizer, x[:400]) <= 1.05 * float(brute)
    assert error(quantizer, x) < 0.5 * error(searched(x, Format("log2_flush", 4), None), x)


def test_the_shift_of_adalog_is_the_lower_end_and_pays_behind_a_gelu() -> None:
    x = torch.nn.functional.gelu(drawn(64, 64))
    quantizer = searched(x, Format("adalog", 4), None)
    assert float(quantizer.get_parameter("shift")) == pytest.approx(0.17, abs=0.001)
    assert error(quantizer, x) < 0.7 * error(searched(x, Format("affine", 4), None), x)


def test_each_head_has_its_own_base_and_shift() -> None:
    x = torch.stack((probabilities(4, 40, 8), probabilities(4, 40, 8) ** 0.2), 1)
    for name, own in (("adalog", "base"), ("shift_uniform_log2", "shift")):
        found = searched(x, Format(name, 4, Granularity.HEAD), -3).get_parameter(own)
        assert found.shape == (2, 1, 1)
        assert name != "adalog" or float(found[0]) != float(found[1])


@pytest.mark.parametrize("name", [*LOGARITHMS, "matthew"])
def test_the_output_search_of_a_product_never_ends_worse(name: str) -> None:
    x, y = probabilities(2, 24, 24), drawn(2, 24, 8)
    spec = SearchSpec(Format(name, 3))
    score = product_score(spec, x, None, y, y)
    start = SEARCHES["minmax"](spec, samples_of(x, None))
    found = local_search(spec, start, score, MOVES)
    assert float(score(found)) <= float(score(start))
    if name != "matthew":
        assert float(score(found)) < 0.9 * float(score(start))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_output_search_of_weights_never_ends_worse(name: str) -> None:
    w, x = drawn(6, 40), drawn(200, 40, seed=1)
    spec = SearchSpec(Format(name, 3, Granularity.CHANNEL))
    quantizer = searched(w, spec.format, 0)
    start = Member(Site("w", "w", Role.WEIGHT, ()), w, quantizer).current()
    score = weight_score(spec, w, x, x)
    found = local_search(spec, start, score, MOVES)
    assert (score(found) <= score(start)).all() and score(found).sum() < score(start).sum()


def test_matthew_keeps_the_largest_value_exactly_whatever_is_searched() -> None:
    x = probabilities(50, 20)
    for search in ("minmax", "percentile", "mse"):
        quantizer = searched(x, Format("matthew", 3), None, search)
        torch.testing.assert_close(quantizer(x).max(), x.max(), rtol=1e-6, atol=0)
    large = torch.cat((torch.zeros(500), torch.linspace(0.6, 1, 500)))
    quantizer = searched(large, Format("matthew", 3), None)
    assert float(quantizer.get_parameter("skipped")) > 4
    assert error(quantizer, large) < 0.3 * error(searched(large, Format("affine", 3), None), large)


def test_matthew_s_integer_view_is_its_values_in_whole_steps() -> None:
    quantizer = make_quantizer(Format("matthew", 4))
    quantizer.set_parameters(scale=torch.tensor(0.25), skipped=torch.tensor(6.0))
    view, codes = quantizer.integer_view(), torch.arange(16, dtype=torch.uint8)
    assert view is not None and view.steps == 21
    assert torch.equal((view.spread(codes).float() - view.zero_point) * view.scale, quantizer.decode(codes))


def channels(outliers: int = 2) -> torch.Tensor:
    x = drawn(300, 24) * torch.linspace(0.8, 1.6, 24)
    x[:, :outliers] *= 30
    return x


def test_each_channel_has_the_factor_of_least_error_given_the_others() -> None:
    x = drawn(300, 24) * torch.linspace(0.5, 4, 24)
    quantizer = searched(x, Format("power_of_two_factor", 6, Granularity.CHANNEL), -1)
    p = quantizer.parameters_dict()
    assert p["scale"].shape == p["zero_point"].shape == () and p["factor"].shape == (24,)
    assert set(p["factor"].tolist()) <= set(POWERS) and len(set(p["factor"].tolist())) > 2
    own = (quantizer(x) - x).square().sum(0)
    for factor in POWERS:
        quantizer.set_parameters(**{**p, "factor": torch.full((24,), factor)})
        assert bool((own <= 1.0001 * (quantizer(x) - x).square().sum(0)).all())


def test_min_max_of_factors_covers_the_widest_channel_with_the_largest_one() -> None:
    x = channels()
    quantizer = searched(x, Format("power_of_two_factor", 8, Granularity.CHANNEL), -1, "minmax")
    p = quantizer.parameters_dict()
    assert float(p["factor"].max()) == POWERS[-1]
    assert float(p["scale"]) == pytest.approx(float(x.max() - x.min()) / 255 / POWERS[-1], rel=1e-5)


def test_whole_factors_are_nearly_as_fine_as_a_range_for_each_channel() -> None:
    x = drawn(300, 24) * torch.logspace(-1, 1, 24) + torch.linspace(-2, 2, 24) * torch.logspace(-1, 1, 24)
    quantizer = searched(x, Format("whole_factor", 6, Granularity.CHANNEL), -1)
    p = quantizer.parameters_dict()
    assert p["scale"].shape == () and p["zero_point"].shape == p["factor"].shape == (24,)
    assert torch.equal(p["factor"], p["factor"].round()) and 1 <= p["factor"].min() < p["factor"].max() <= 1024
    share = [
        (searched(x, Format(name, 6, Granularity.CHANNEL), -1)(x) - x).square().mean(0) / x.var(0)
        for name in ("whole_factor", "affine", "power_of_two_factor")
    ]
    assert share[0].mean() < 1.1 * share[1].mean() < 0.7 * share[2].mean()
    covering = searched(x, quantizer.format, -1, "minmax")
    low, high = covering.codec.range_of(covering.format, covering.parameters_dict())
    step = covering.resolution(x[:1]).flatten()
    assert bool((low - step / 2 <= x.amin(0)).all()) and bool((high + step / 2 >= x.amax(0)).all())


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_outliers_are_few_and_have_one_ratio(count: int) -> None:
    x = channels(count)
    quantizer = searched(x, Format("outlier_channels", 6, Granularity.CHANNEL), -1)
    p = quantizer.parameters_dict()
    assert p["ratio"].shape == () and float(p["ratio"]).hex().startswith("0x1.0000")
    expected = torch.arange(24) < count
    assert torch.equal(p["outlier"] == 1, expected) if count <= 8 else int(p["outlier"].sum()) <= 8
    if 0 < count <= 8:
        assert float(p["ratio"]) > 4
        assert error(quantizer, x) < 0.4 * error(searched(x, Format("affine", 6), None), x)


@pytest.mark.parametrize("name", ["power_of_two_factor", "whole_factor"])
def test_scales_of_factors_are_integers_of_a_scale_per_channel(name: str) -> None:
    quantizer = searched(channels(), Format(name, 4, Granularity.CHANNEL), -1)
    view, codes = quantizer.integer_view(), torch.arange(16, dtype=torch.uint8)[:, None].expand(-1, 24)
    assert view is not None and view.scale.shape == view.zero_point.shape == (24,)
    torch.testing.assert_close((view.spread(codes).float() - view.zero_point) * view.scale, quantizer.decode(codes))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_of_heavy_tails_lose_less_than_in_affine_codes(bits: int) -> None:
    w = drawn(16, 400)
    affine = error(searched(w, Format("affine", bits, Granularity.CHANNEL), 0), w)
    pwlq, subset = (error(searched(w, Format(name, bits, Granularity.CHANNEL), 0), w) for name in WEIGHTS)
    assert pwlq < 0.95 * affine and subset < pwlq * 1.01


def test_the_breakpoint_is_as_good_as_every_one_of_a_grid() -> None:
    w = drawn(1, 2000)
    quantizer = searched(w, Format("pwlq", 4), None)
    tops, ratios = torch.meshgrid(torch.linspace(0.3, 1, 40) * w.abs().max(), torch.linspace(1, 8, 40), indexing="ij")
    codec = quantizer.codec
    p = codec.choose_qparams(quantizer.format, -tops.reshape(-1, 1), tops.reshape(-1, 1), ratio=ratios.reshape(-1, 1))
    codes = codec.quantize(w, 15, p).clamp(0, 15)
    assert error(quantizer, w) <= 1.03 * float((codec.dequantize(codes, 15, p) - w).square().mean(1).min())


def test_the_subset_is_the_best_of_all_for_its_scale() -> None:
    x, weights = drawn(2, 60).abs(), torch.rand(2, 60, generator=torch.Generator().manual_seed(3)) + 0.1
    points = torch.tensor(UNIVERSE)[::2]
    scale_G, levels_GL = best_subset(x, weights, points, 3, (0.8,))
    for group in range(2):
        values = x[group] / scale_G[group]
        errors = {
            chosen: float(((values[:, None] - torch.tensor(chosen)).abs().amin(1).square() * weights[group]).sum())
            for chosen in combinations(points.tolist(), 3)
        }
        assert min(errors, key=lambda chosen: errors[chosen]) == tuple(levels_GL[group].tolist())


def test_the_universe_is_sums_of_two_powers_of_two() -> None:
    assert len(UNIVERSE) == 17 and UNIVERSE[0] == 0 and UNIVERSE[-1] == 1
    assert all(bin(int(value * 32)).count("1") <= 2 and value * 32 == int(value * 32) for value in UNIVERSE)


@pytest.mark.parametrize("name", NAMES)
def test_none_can_be_symmetric(name: str) -> None:
    with pytest.raises(RecipeError, match="remove 'symmetric'"):
        make_quantizer(Format(name, 4, symmetric=True))


def test_a_subset_has_at_most_four_bits() -> None:
    with pytest.raises(RecipeError, match="2 to 4 bits, not 5"):
        make_quantizer(Format("subset", 5))


def test_a_channel_of_zeros_is_quantized_to_zeros() -> None:
    for name in NAMES:
        x = channels(0).abs() if name in ONE_SIDED else channels(0)
        x[:, 3] = 0
        x = x.T if name in WEIGHTS else x
        quantizer = searched(x, Format(name, 4, Granularity.CHANNEL), 0 if name in WEIGHTS else -1)
        values = quantizer(x).T if name in WEIGHTS else quantizer(x)
        limit = 1e-6 if name not in FACTORS else float("inf")
        assert float(values[:, 3].abs().max()) <= limit and bool(torch.isfinite(values).all()), name
    assert set(NAMES) <= set(FORMATS)

"""Codes and values of every format against a NumPy reference, and the laws that they obey."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitq.errors import CalibrationError
from vitq.quantizers import (
    FORMATS,
    GRANULARITIES,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Format,
    Granularity,
    Quantizer,
    affine_from_range,
    make_quantizer,
    parameter_shape,
    reduce_dims,
)

FACTORS = {"power_of_two_factor", "whole_factor", "outlier_channels"}
ELSEWHERE = {"adalog", "shift_uniform_log2", "matthew", "pwlq", "subset"} | FACTORS
"""Formats that test_paper_formats.py compares with references of its own."""

NAMES = sorted(set(FORMATS) - ELSEWHERE)

AXES = {
    Granularity.TENSOR: None,
    Granularity.CHANNEL: -1,
    Granularity.TOKEN: -2,
    Granularity.HEAD: -3,
}


def calibrated(x: torch.Tensor, format: Format, axis: int | None) -> Quantizer:
    """Return a quantizer with the range of x as its parameters."""
    quantizer = make_quantizer(format, axis)
    shape, dims = parameter_shape(x.shape, axis), reduce_dims(x, axis)
    low, high = x.amin(dims).reshape(shape), x.amax(dims).reshape(shape)
    quantizer.set_parameters(**FORMATS[format.name].choose_qparams(format, low, high))
    return quantizer


def levels(quantizer: Quantizer) -> np.ndarray:
    """Return the values of all codes of a twin in scales, along a last dimension of their own."""
    zero, ratio = (quantizer.get_parameter(name).detach().numpy()[..., None] for name in ("zero", "ratio"))
    codes = np.arange(quantizer.format.qmax + 1, dtype=np.float64)
    split = zero if quantizer.format.name == "twin_sign" else (quantizer.format.qmax + 1) // 2
    return np.where(codes < split, codes - zero, (codes - split) * ratio)


def reference_codes(quantizer: Quantizer, x: np.ndarray) -> np.ndarray:
    if quantizer.format.name == "codebook":
        table = quantizer.get_parameter("table").detach().numpy()
        return np.abs(x[..., None].astype(np.float64) - table).argmin(-1).astype(np.uint8)
    if quantizer.format.name.startswith("twin"):
        units = (x / quantizer.scale.detach().numpy()).astype(np.float64)
        return np.abs(units[..., None] - levels(quantizer)).argmin(-1).astype(np.uint8)
    scale, top = quantizer.scale.detach().numpy(), np.float32(quantizer.format.qmax)
    with np.errstate(all="ignore"):
        ratio = (x / scale).astype(np.float32)
        if quantizer.format.name == "affine":
            raw = np.rint(ratio) + np.rint(quantizer.zero_point.detach().numpy())
        elif quantizer.format.name == "piecewise":
            knee = np.float32(quantizer.format.qmax // 2)
            above = ratio + (np.rint(quantizer.zero_point.detach().numpy()) - knee)
            raw = np.rint(np.where(above > 0, above / 4, above)) + knee
        else:
            times = -2.0 if quantizer.format.name == "log_sqrt2" else -1.0
            raw = np.rint(times * np.log2(np.maximum(ratio, 0.0)))
    return np.clip(raw, 0, top).astype(np.uint8)


def reference_values(quantizer: Quantizer, codes: np.ndarray) -> np.ndarray:
    if quantizer.format.name == "codebook":
        table = quantizer.get_parameter("table").detach().numpy()
        return np.take_along_axis(np.broadcast_to(table, (*codes.shape, table.shape[-1])), codes[..., None], -1)[..., 0]
    scale, k = quantizer.scale.detach().numpy().astype(np.float64), codes.astype(np.float64)
    match quantizer.format.name:
        case "affine":
            return (k - np.rint(quantizer.zero_point.detach().numpy())) * scale
        case "piecewise":
            knee = quantizer.format.qmax // 2
            fine = np.where(k > knee, knee + 4 * (k - knee), k)
            return (fine - np.rint(quantizer.zero_point.detach().numpy())) * scale
        case "twin" | "twin_sign":
            own = np.broadcast_to(levels(quantizer), (*codes.shape, quantizer.format.qmax + 1))
            return np.take_along_axis(own, codes[..., None], -1)[..., 0] * scale
        case "log2":
            return scale * 2.0**-k
        case "log2_flush":
            return np.where(k == quantizer.format.qmax, 0.0, scale * 2.0**-k)
        case _:
            return scale * 2.0 ** -np.ceil(k / 2) * np.where(k % 2 == 1, np.sqrt(2.0), 1.0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", NAMES)
def test_forward_is_decode_of_encode_and_both_match_numpy(name: str, granularity: Granularity, bits: int) -> None:
    x = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(bits))
    quantizer = calibrated(x, Format(name, bits, granularity), AXES[granularity])
    x = 1.3 * x  # beyond the calibrated range, too
    codes = quantizer.encode(x)
    values = quantizer.decode(codes)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) <= quantizer.format.qmax
    assert torch.equal(quantizer(x), values)
    assert torch.equal(quantizer(x.requires_grad_()).detach(), values)
    assert values.dtype == torch.float32
    assert np.array_equal(codes.numpy(), reference_codes(quantizer, x.detach().numpy()))
    np.testing.assert_allclose(values.numpy(), reference_values(quantizer, codes.numpy()), rtol=3e-7, atol=1e-44)


@pytest.mark.parametrize("power", range(16))
@pytest.mark.parametrize("name", ["twin", "twin_sign"])
def test_twin_ranges_of_every_exponent_match_numpy(name: str, power: int) -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(power))
    form = Format(name, 4)
    quantizer = make_quantizer(form)
    quantizer.set_parameters(**FORMATS[name].choose_qparams(form, x.min(), x.max(), ratio=2.0**power))
    x = torch.cat((1.3 * x, x * 2.0**-power))  # fine values, too
    codes = quantizer.encode(x)
    assert np.array_equal(codes.numpy(), reference_codes(quantizer, x.numpy()))
    wanted = reference_values(quantizer, codes.numpy())
    np.testing.assert_allclose(quantizer(x).numpy(), wanted, rtol=3e-7, atol=1e-44)


def test_ties_round_half_to_even_after_a_division() -> None:
    """Half-way values tell x / s from x * (1 / s), and half-to-even from half-up."""
    quantizer = make_quantizer(Format("affine", 8))
    steps = np.arange(-128, 127, dtype=np.float32) + np.float32(0.5)
    for scale in np.geomspace(1e-3, 10, 200, dtype=np.float32):
        x = steps * scale
        quantizer.set_parameters(scale=torch.tensor(scale), zero_point=torch.tensor(127.0))
        assert np.array_equal(quantizer.encode(torch.from_numpy(x)).numpy(), reference_codes(quantizer, x))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(6, 10), (6, 3, 4, 4)])
def test_weights_per_output_channel(shape: tuple[int, ...], symmetric: bool, bits: int) -> None:
    w = torch.randn(shape)
    quantizer = calibrated(w, Format("affine", bits, Granularity.CHANNEL, symmetric), 0)
    values = quantizer(w)
    assert quantizer.scale.shape == (6,) + (1,) * (len(shape) - 1)
    assert torch.equal(values, quantizer.decode(quantizer.encode(w)))
    assert bool(((values - w).abs() <= 0.5001 * quantizer.scale).all())
    if symmetric:
        assert bool((quantizer.zero_point == 2 ** (bits - 1)).all())


floats = st.floats(-(2.0**100), 2.0**100, width=32)
tensors = st.one_of(
    st.lists(floats, min_size=1, max_size=20),
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
    floats.map(lambda value: [value] * 5),
    st.sampled_from([[0.0] * 3, [1e30, 1e-30], [-1e30, 1e30, 0.0], [1e-30, 2e-30], [3.0]]),
)


@settings(max_examples=200, deadline=None)
@given(values=tensors, bits=st.integers(2, 8), name=st.sampled_from(NAMES), symmetric=st.booleans())
def test_laws(values: list[float], bits: int, name: str, symmetric: bool) -> None:
    x = torch.tensor(values, dtype=torch.float32).sort().values
    quantizer = calibrated(x, Format(name, bits, symmetric=symmetric and name == "affine"), None)
    codes, simulated = quantizer.encode(x), quantizer(x)
    assert torch.equal(simulated, quantizer.decode(codes))
    assert bool(torch.isfinite(simulated).all())
    assert bool((simulated.diff() >= 0).all()), "monotone"
    every = torch.arange(quantizer.format.qmax + 1, dtype=torch.uint8)
    if name == "affine":
        assert torch.equal(quantizer.encode(quantizer.decode(every)), every), "idempotent on all codes"
        error = (simulated.double() - x.double()).abs()
        assert bool((error <= 0.5001 * quantizer.scale.double() + 1e-36).all()), "half a step at most"
    elif not name.startswith("log"):
        own = quantizer.decode(every)
        if name == "piecewise":
            assert torch.equal(quantizer.encode(own), every), "idempotent on all codes"
        inside = x[(x >= own.min()) & (x <= own.max())]
        least = (own.double() - inside.double()[:, None]).abs().amin(1)
        error = (quantizer(inside).double() - inside.double()).abs()
        slack = 1e-6 * float(own.double().abs().max()) + 1e-36
        assert bool((error <= 1.0001 * least + slack).all()), "the nearest value"
    else:
        assert bool((simulated >= 0).all())
        normal = every[quantizer.decode(every) > 1e-37]  # beyond, 2^-code underflows
        assert torch.equal(quantizer.encode(quantizer.decode(normal)), normal)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (3.0, 3.0), (-5.0, -4.0), (-3e38, 3e38), (1e-30, 1e-29), (-1.0, 1e-3)]
)
def test_affine_from_range_includes_zero(low: float, high: float, bits: int, symmetric: bool) -> None:
    scale, zero_point = affine_from_range(torch.tensor(low), torch.tensor(high), bits, symmetric)
    assert SMALLEST_SCALE <= float(scale) <= LARGEST_SCALE
    assert 0 <= float(zero_point) <= 2**bits - 1
    assert float(zero_point) == round(float(zero_point))
    quantizer = make_quantizer(Format("affine", bits, symmetric=symmetric))
    quantizer.set_parameters(scale=scale, zero_point=zero_point)
    assert float(quantizer(torch.tensor(0.0))) == 0.0
    assert bool(torch.isfinite(quantizer(torch.tensor([low, high, 1e38, -1e38]))).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(50).to(dtype)
    quantizer = calibrated(x.float(), Format("affine", 4), None)
    assert torch.equal(quantizer(x), quantizer.decode(quantizer.encode(x)).to(dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_have_no_code_and_nan_stays_visible(bad: float) -> None:
    quantizer = calibrated(torch.tensor([0.0, 1.0]), Format("affine", 4), None)
    quantizer.site = "blocks.0.mlp.fc1/input"
    with pytest.raises(CalibrationError, match=r"blocks\.0\.mlp\.fc1/input"):
        quantizer.encode(torch.tensor([0.5, bad]))
    assert bool(torch.isnan(quantizer(torch.tensor(float("nan")))))


@pytest.mark.parametrize("bits", range(2, 7))
def test_piecewise_values_are_eight_bit_integers_times_the_scale(bits: int) -> None:
    quantizer = make_quantizer(Format("piecewise", bits))
    quantizer.set_parameters(scale=torch.tensor(0.25), zero_point=torch.tensor(1.0))
    steps = quantizer.decode(torch.arange(2**bits, dtype=torch.uint8)) / 0.25
    assert steps.tolist() == [round(step) for step in steps.tolist()]
    assert float(steps.max() - steps.min()) == quantizer.integer_view().steps <= 255  # type: ignore[union-attr]


def test_piecewise_halves_the_error_of_affine_behind_a_gelu() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.gelu(torch.randn(20_000, generator=generator) * torch.randn(20_000, generator=generator))

    def least(name: str) -> float:
        quantizer = make_quantizer(Format(name, 4))
        errors = []
        for top in torch.linspace(1, float(x.max()), 60):
            quantizer.set_parameters(**quantizer.codec.choose_qparams(quantizer.format, x.min(), top))
            errors.append(float((quantizer(x) - x).square().mean()))
        return min(errors)

    assert least("piecewise") < 0.6 * least("affine")

"""Twin ranges: their exponent is searched, and their values are whole steps."""

import pytest
import torch

from vitq.calibrate.candidates import SearchSpec
from vitq.calibrate.output_search import MOVES, product_score
from vitq.calibrate.samples import samples_of
from vitq.calibrate.searches import SEARCHES, local_search
from vitq.quantizers import Format, Granularity, make_quantizer


def behind_a_gelu(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    return torch.nn.functional.gelu(x * torch.rand(shape, generator=generator).pow(-0.5))


def error(name: str, bits: int, x: torch.Tensor) -> float:
    quantizer = make_quantizer(Format(name, bits))
    quantizer.set_parameters(**SEARCHES["mse"](SearchSpec(quantizer.format), samples_of(x, None)).shaped())
    return float((quantizer(x) - x).square().mean())


@pytest.mark.parametrize("bits", [4, 6])
def test_it_has_less_error_than_affine_behind_a_gelu(bits: int) -> None:
    x = behind_a_gelu(64, 64)
    assert error("twin", bits, x) < 0.8 * error("affine", bits, x)


def test_the_search_is_as_good_as_every_exponent_on_a_grid_of_ranges() -> None:
    x, form = behind_a_gelu(64, 16), Format("twin", 4)
    codec = SearchSpec(form).codec
    tops = torch.linspace(0.2, 1.05, 50)[:, None] * x.max()
    tried = codec.candidates(form, x.min().expand_as(tops), tops)
    codes = codec.quantize(x.reshape(1, -1), 15, tried).clamp(0, 15)
    errors = (codec.dequantize(codes, 15, tried) - x.reshape(1, -1)).square().mean(1)
    assert len(errors) == 16 * 50
    assert error("twin", 4, x) <= 1.02 * float(errors.min())


@pytest.mark.parametrize("name", ["twin", "twin_sign"])
def test_the_output_search_tries_all_exponents_and_never_ends_worse(name: str) -> None:
    spec, x = SearchSpec(Format(name, 4)), behind_a_gelu(48, 16)
    y = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    score = product_score(spec, x, None, y, y)
    bad = spec.candidates(x.min()[None, None], x.max()[None, None]).part(8, 9)
    found = local_search(spec, bad, score, MOVES)
    assert float(score(found)) < 0.5 * float(score(bad))
    assert name == "twin_sign" or float(found["ratio"]) < 2**8


@pytest.mark.parametrize("name", ["twin", "twin_sign"])
def test_the_integer_view_is_the_values_in_whole_steps(name: str) -> None:
    quantizer = make_quantizer(Format(name, 4))
    quantizer.set_parameters(scale=torch.tensor(0.25), ratio=torch.tensor(8.0), zero=torch.tensor(3.0))
    view = quantizer.integer_view()
    codes = torch.arange(16, dtype=torch.uint8)
    assert view is not None and view.steps == (3 + 7 * 8 if name == "twin" else 3 + 12 * 8)
    assert torch.equal((view.spread(codes).float() - view.zero_point) * view.scale, quantizer.decode(codes))
    quantizer.set_parameters(scale=torch.tensor(0.25), ratio=torch.tensor(64.0), zero=torch.tensor(3.0))
    assert quantizer.integer_view() is None and quantizer.too_wide


def test_each_channel_has_its_own_exponent() -> None:
    x = torch.stack((behind_a_gelu(2000), torch.linspace(-1, 1, 2000)))
    quantizer = make_quantizer(Format("twin", 4, Granularity.CHANNEL), 0)
    found = SEARCHES["mse"](SearchSpec(quantizer.format), samples_of(x, 0))
    assert len(set(found["ratio"].flatten().tolist())) == 2
    quantizer.set_parameters(**found.shaped(2, 1))
    assert torch.equal(quantizer(x), quantizer.decode(quantizer.encode(x)))


@pytest.mark.parametrize(
    ("name", "p"),
    [
        ("twin", {"scale": 0.25, "ratio": 16.0, "zero": 3.0}),
        ("twin_sign", {"scale": 0.25, "ratio": 8.0, "zero": 3.0}),
        ("piecewise", {"scale": 0.25, "zero_point": 3.0}),
    ],
)
def test_the_resolution_is_the_distance_to_the_next_lower_value(name: str, p: dict[str, float]) -> None:
    quantizer = make_quantizer(Format(name, 4))
    quantizer.set_parameters(**{key: torch.tensor(value) for key, value in p.items()})
    values = quantizer.decode(torch.arange(16, dtype=torch.uint8)).unique()
    steps, gaps = quantizer.resolution(values)[1:], values.diff()
    regular = (steps[1:] == steps[:-1]).logical_or(torch.tensor(name != "twin"))  # twin's ranges overlap at the knee
    assert torch.equal(steps[1:][regular], gaps[1:][regular]) and len(gaps.unique()) >= 2

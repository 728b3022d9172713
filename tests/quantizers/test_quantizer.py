"""The module around a format: calibration state, parameters, drop masks."""

import copy

import pytest
import torch

from vitq.errors import CalibrationError
from vitq.quantizers import FORMATS, DropMask, Format, Granularity, Quantizer, make_quantizer

CHANNEL = Format("affine", 4, Granularity.CHANNEL)


def ready(name: str = "affine") -> Quantizer:
    quantizer = make_quantizer(Format(name, 4))
    quantizer.set_parameters(**{p.name: torch.ones(p.own(4)) for p in quantizer.codec.parameters})
    return quantizer


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_uncalibrated_refuses_and_names_the_site(name: str) -> None:
    quantizer = make_quantizer(Format(name, 4))
    quantizer.site = "blocks.3.attn/probabilities"
    assert not quantizer.calibrated
    for use in (quantizer, quantizer.encode, quantizer.decode, lambda _: quantizer.parameters_dict()):
        with pytest.raises(CalibrationError, match=r"blocks\.3\.attn/probabilities.*calibrate first"):
            use(torch.zeros(2))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_parameters_round_trip_and_lowering(name: str) -> None:
    quantizer = ready(name)
    other = make_quantizer(quantizer.format)
    other.set_parameters(**quantizer.parameters_dict())
    x = torch.rand(9)
    assert other.calibrated
    assert torch.equal(other(x), quantizer(x))
    assert quantizer.codec.lowering
    assert all(not parameter.requires_grad for parameter in quantizer.parameters())
    assert torch.equal(copy.deepcopy(quantizer)(x), quantizer(x))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"scale": torch.ones(3)}, "'zero_point' is missing"),
        ({"scale": torch.ones(3), "zero_pont": torch.ones(3)}, "did you mean 'zero_point'"),
        ({"scale": torch.tensor([1.0, 0.0]), "zero_point": torch.ones(2)}, "finite and positive"),
        ({"scale": torch.tensor([1.0, float("nan")]), "zero_point": torch.ones(2)}, "finite and positive"),
        ({"scale": torch.ones(2), "zero_point": torch.tensor([1.0, float("inf")])}, "finite"),
        ({"scale": torch.ones(2, 1), "zero_point": torch.ones(2, 1)}, "does not broadcast"),
        ({"scale": torch.tensor(1.0), "zero_point": torch.tensor(1.0)}, "does not broadcast"),
        ({"scale": torch.ones(2), "zero_point": torch.ones(3)}, "one shape"),
    ],
)
def test_unusable_parameters_are_refused(tensors: dict[str, torch.Tensor], words: str) -> None:
    quantizer = make_quantizer(CHANNEL, -1)
    quantizer.site = "head/input"
    with pytest.raises(CalibrationError, match=words) as error:
        quantizer.set_parameters(**tensors)
    assert "head/input" in str(error.value)
    assert not quantizer.calibrated


def test_a_weight_scale_must_have_the_weights_dimensions() -> None:
    quantizer = make_quantizer(CHANNEL, 0)
    quantizer.set_parameters(scale=torch.ones(4), zero_point=torch.zeros(4))
    with pytest.raises(CalibrationError, match=r"set it as \(4, 1\)"):
        quantizer(torch.ones(4, 4))


def test_parameters_change_in_place_where_the_shape_stays() -> None:
    quantizer = ready()
    scale = quantizer.scale
    quantizer.set_parameters(scale=torch.tensor([2.0]), zero_point=torch.tensor(0.0))
    assert quantizer.scale is scale
    assert float(scale) == 2.0


def test_symmetric_needs_the_scale_alone() -> None:
    quantizer = make_quantizer(Format("affine", 4, symmetric=True))
    quantizer.set_parameters(scale=torch.tensor(0.5))
    assert float(quantizer.decode(torch.tensor([8], dtype=torch.uint8))) == 0.0
    quantizer.set_parameters(**quantizer.parameters_dict())
    assert float(quantizer(torch.tensor(-4.0))) == -4.0


def test_drop_keeps_x_only_while_gradients_are_enabled() -> None:
    quantizer, x = ready(), torch.rand(4000)
    plain = quantizer(x)
    quantizer.drop = DropMask(0.25, generator=torch.Generator().manual_seed(3))
    mixed = quantizer(x)
    assert 0.2 < float((mixed == x).float().mean()) < 0.3
    assert bool(((mixed == x) | (mixed == plain)).all())
    with torch.no_grad():
        assert torch.equal(quantizer(x), plain)

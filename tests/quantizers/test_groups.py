"""Groups of inputs: each has parameters of its own, in every part of a run."""

import numpy as np
import pytest
import torch

from vitq.calibrate.assign import search_alone
from vitq.calibrate.candidates import SearchSpec
from vitq.calibrate.member import Member
from vitq.calibrate.options import SiteFormat
from vitq.calibrate.output_search import MOVES, search_groups
from vitq.errors import CalibrationError, RecipeError
from vitq.graph import Role, Site
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer
from vitq.quantizers.granularity import activation_axis
from vitq.reconstruct.variables.rounding import AdaRound

GROUP = Granularity.group(8)


def weight(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator).pow(-0.4)


def calibrated(w: torch.Tensor, form: Format, search: str = "mse") -> Quantizer:
    quantizer = make_quantizer(form, 0)
    search_alone(Member(Site("w", "w", Role.WEIGHT, ()), w, quantizer), search)
    return quantizer


@pytest.mark.parametrize("shape", [(5, 24), (5, 4, 3, 2)])
def test_each_group_is_what_numpy_makes_of_it_alone(shape: tuple[int, ...]) -> None:
    w = weight(*shape)
    quantizer = calibrated(w, Format("affine", 4, GROUP), "minmax")
    rows = w.reshape(-1, 8).numpy()
    low, high = np.minimum(rows.min(1, keepdims=True), 0), np.maximum(rows.max(1, keepdims=True), 0)
    scale = ((high.astype(np.float64) - low) / 15).astype(np.float32)
    zero = np.rint(-low.astype(np.float64) / scale)
    codes = np.clip(np.rint(rows / scale) + zero, 0, 15)
    assert quantizer.get_parameter("scale").shape == (5, 3, 1)
    assert np.array_equal(quantizer.encode(w).numpy(), codes.reshape(shape).astype(np.uint8))
    np.testing.assert_allclose(quantizer(w).detach().numpy(), ((codes - zero) * scale).reshape(shape), rtol=1e-6)
    assert torch.equal(quantizer(w), quantizer.decode(quantizer.encode(w)))
    assert quantizer.integer_view() is None


@pytest.mark.parametrize("name", ["affine", "codebook", "twin"])
def test_groups_have_less_error_than_channels_in_every_format(name: str) -> None:
    w = weight(6, 64)
    errors = [(calibrated(w, Format(name, 3, g))(w) - w).square().sum() for g in (Granularity.CHANNEL, GROUP)]
    assert errors[1] < 0.9 * errors[0]


def test_the_output_search_lowers_the_error_of_the_layer() -> None:
    w, x = weight(6, 32), torch.randn(300, 32, generator=torch.Generator().manual_seed(1)).cumsum(1)
    quantized = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    quantizer = calibrated(w, Format("affine", 3, GROUP))
    member = Member(Site("w", "w", Role.WEIGHT, ()), w, quantizer)

    def error() -> float:
        return float((quantized @ quantizer(w).T - x @ w.T).square().sum())

    before = error()
    member.assign(search_groups(SearchSpec(quantizer.format), member.current(), w, quantized, x, MOVES))
    assert error() < 0.8 * before


def test_scales_and_rounding_of_groups_are_learnt() -> None:
    w = weight(4, 16)
    quantizer = calibrated(w, Format("affine", 3, GROUP))
    scale = quantizer.get_parameter("scale").requires_grad_()
    quantizer(w).square().sum().backward()
    assert scale.grad is not None and scale.grad.shape == (4, 2, 1) and bool((scale.grad != 0).all())
    rounding = AdaRound(quantizer, w)
    assert rounding(w).shape == w.shape and rounding.v.requires_grad
    assert (rounding.hardened() - quantizer(w)).abs().max() <= 1.001 * scale.max()
    assert quantizer.resolution(w).shape == w.shape


def test_a_size_must_divide_the_inputs_and_activations_have_no_groups() -> None:
    with pytest.raises(RecipeError, match="groups of 8 do not divide 12 inputs; choose a divisor of 12"):
        calibrated(weight(3, 12), Format("affine", 4, GROUP))
    with pytest.raises(RecipeError, match="groups are for weights"):
        make_quantizer(Format("affine", 4, GROUP), -1)
    with pytest.raises(RecipeError, match=r"activations have no 'group\(8\)' granularity"):
        activation_axis(GROUP)
    with pytest.raises(CalibrationError, match="does not broadcast"):
        make_quantizer(Format("affine", 4, GROUP), 0).set_parameters(
            scale=torch.ones(3, 1), zero_point=torch.ones(3, 1)
        )


def test_it_is_written_as_text() -> None:
    form = SiteFormat.model_validate({"granularity": "group(8)"})
    assert form.model_dump(mode="json")["granularity"] == "group(8)"
    assert form.granularity == GROUP and form.granularity.size == 8
    assert Format.from_dict(Format("affine", 4, GROUP).to_dict()).granularity.size == 8
    with pytest.raises(ValueError, match=r"granularity 'group\(0\)' does not exist"):
        SiteFormat.model_validate({"granularity": "group(0)"})

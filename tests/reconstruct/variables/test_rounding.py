import torch

from vitq.quantizers import Format, Quantizer, affine_from_range, make_quantizer
from vitq.reconstruct.variables.rounding import AdaRound, initial_v, rectified_sigmoid, rounding_penalty


def quantizer_for(w_OI: torch.Tensor, bits: int = 3) -> Quantizer:
    quantizer = make_quantizer(Format(bits=bits, granularity="channel"), 0)
    scale, zero_point = affine_from_range(w_OI.amin(1), w_OI.amax(1), bits)
    quantizer.set_parameters(scale=scale[:, None], zero_point=zero_point[:, None])
    return quantizer


def test_starts_at_the_floating_point_weight() -> None:
    w_OI = torch.randn(8, 16)
    quantizer = quantizer_for(1.1 * w_OI, 8)  # a range that clips nothing
    assert torch.allclose(AdaRound(quantizer, w_OI)(w_OI), w_OI, atol=1e-4)


def test_initial_v_inverts_the_rectified_sigmoid() -> None:
    fraction = torch.linspace(0.01, 0.99, 50)
    assert torch.allclose(rectified_sigmoid(initial_v(fraction)), fraction, atol=1e-5)


def test_hardened_weights_are_fixed_points_of_their_quantizer() -> None:
    w_OI = torch.randn(8, 16)
    quantizer = quantizer_for(w_OI)
    rounding = AdaRound(quantizer, w_OI)
    with torch.no_grad():
        rounding.v.copy_(torch.randn_like(rounding.v))
    hard = rounding.hardened()
    assert torch.equal(quantizer.decode(quantizer.encode(hard)), hard)
    assert float((hard - w_OI).abs().max()) <= float(quantizer.scale.max()) * 1.001


def test_penalty_is_zero_only_for_decided_roundings() -> None:
    assert float(rounding_penalty(torch.tensor([0.0, 1.0]), 2.0)) == 0.0
    assert float(rounding_penalty(torch.tensor([0.5]), 2.0)) == 1.0

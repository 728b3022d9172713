"""The lowered operations are the quantizers, bit for bit."""

import pytest
import torch

pytest.importorskip("onnxscript")

from vitq.export import operators  # noqa: F401
from vitq.export.lowerings import LOWERINGS, affine_float
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer

X = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 1e-30, 9.0, -9.0])])


def lowered(name: str, quantizer: Quantizer, x: torch.Tensor) -> torch.Tensor:
    """Return what the format's operation makes of ``x``."""
    lowering = LOWERINGS[name]
    y: torch.Tensor = getattr(torch.ops.vitq, lowering.operation)(
        x, *lowering.arguments(quantizer, quantizer.parameters_dict())
    )
    return y


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", ["affine", "piecewise"])
@pytest.mark.parametrize(("scale", "zero"), [(0.037, 1.0), (0.5, 2.0), (1e-3, 0.0)])
def test_codes_of_one_scale(name: str, bits: int, scale: float, zero: float) -> None:
    if name == "piecewise" and bits > 6:
        pytest.skip("does not fit uint8, and export refuses it")
    quantizer = make_quantizer(Format(name, bits))
    quantizer.set_parameters(scale=torch.tensor(scale), zero_point=torch.tensor(min(zero, 2 ** (bits - 1) - 1)))
    assert torch.equal(lowered(name, quantizer, X), quantizer(X))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", ["log2", "log2_flush", "log_sqrt2"])
def test_logarithmic_codes(name: str, bits: int) -> None:
    quantizer = make_quantizer(Format(name, bits))
    quantizer.set_parameters(scale=torch.tensor(0.9))
    lowering = LOWERINGS[name]
    probabilities = X.abs().clamp(max=1.0)
    got = getattr(torch.ops.vitq, lowering.operation)(
        probabilities, *lowering.arguments(quantizer, quantizer.parameters_dict())
    )
    assert torch.equal(got, quantizer(probabilities))


@pytest.mark.parametrize("operation", ["twin", "twin_float"])
@pytest.mark.parametrize("name", ["twin", "twin_sign"])
def test_twin_codes(name: str, operation: str) -> None:
    quantizer = make_quantizer(Format(name, 4))
    quantizer.set_parameters(scale=torch.tensor(0.03), ratio=torch.tensor(8.0), zero=torch.tensor(3.0))
    lowering = LOWERINGS[name] if operation == "twin" else LOWERINGS[name].floating
    assert lowering is not None and lowering.operation == operation
    given = lowering.arguments(quantizer, quantizer.parameters_dict())
    assert torch.equal(getattr(torch.ops.vitq, operation)(X, *given), quantizer(X))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("shape", [(6, 40), (6, 4, 3, 3)])
def test_weights_of_a_codebook(shape: tuple[int, ...], unsigned: bool) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantizer = make_quantizer(Format("codebook", 4, Granularity.CHANNEL), 0)
    table = torch.linspace(-2, 2, 16).repeat(6, 1) ** 3
    quantizer.set_parameters(table=table.reshape(6, *(1 for _ in shape[1:]), 16))
    lowering = LOWERINGS["codebook"].weight
    assert lowering is not None and lowering.refuses(quantizer) == ""
    codes, tensors = lowering.codes(quantizer, quantizer.encode(w), unsigned)
    assert codes.dtype == (torch.uint8 if unsigned else torch.int8)
    assert torch.equal(torch.ops.vitq.lookup(codes, *tensors.values(), 0), quantizer(w))
    if len(shape) == 2:
        turned = torch.ops.vitq.lookup(codes.T, tensors["table"].T, tensors["first"], 1)
        assert torch.equal(turned.T, quantizer(w))


def test_a_scale_per_head() -> None:
    x_BHTD = torch.randn(2, 3, 5, 4)
    quantizer = make_quantizer(Format("affine", 4, Granularity.HEAD), -3)
    shape = (3, 1, 1)
    zero = torch.tensor([8.0, 7.0, 3.0]).reshape(shape)
    quantizer.set_parameters(scale=torch.tensor([0.1, 0.2, 0.3]).reshape(shape), zero_point=zero)
    got = torch.ops.vitq.affine_float(x_BHTD, *affine_float(quantizer, quantizer.parameters_dict()))
    assert torch.equal(got, quantizer(x_BHTD))

"""The integer executor computes what the simulation does."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import ArtifactError, ExportError
from vitq.integer import IntegerLinear, int_mm, integer_graph

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit(tiny: Callable[..., nn.Module]) -> nn.Module:
    return tiny("vit")


@pytest.mark.parametrize("recipe", ["rtn", "repq"])
@pytest.mark.parametrize("bits", ["w2a2", "w4a6", "w8a8"])
def test_every_linear_is_an_integer_one_and_gives_the_same_logits(vit: nn.Module, recipe: str, bits: str) -> None:
    model = vitq.quantize(vit, IMAGES, recipe=recipe, bits=bits, progress=False)
    module, count = integer_graph(model.graph, model.weights)
    assert count == sum(isinstance(m, nn.Linear) for m in vit.modules())
    with torch.no_grad():
        torch.testing.assert_close(module(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_the_sum_is_exact_at_the_ends_of_the_range() -> None:
    from vitq.quantizers import Format, Granularity, make_quantizer

    x_TI = torch.tensor([[255.0] * 2000, [-0.0] * 2000])
    a, w = make_quantizer(Format("affine", 8)), make_quantizer(Format("affine", 8, Granularity.CHANNEL), 0)
    a.set_parameters(scale=torch.tensor(1.0), zero_point=torch.tensor(0.0))
    w.set_parameters(scale=torch.ones(2, 1), zero_point=torch.tensor([[0.0], [255.0]]))
    codes_OI = torch.tensor([[255], [0]], dtype=torch.uint8).expand(2, 2000)
    y_TO = IntegerLinear(a, codes_OI, w)(x_TI)
    assert torch.equal(y_TO, torch.tensor([[1.0, -1.0], [0.0, 0.0]]) * 2000 * 255 * 255)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda_pads_what_its_kernel_does_not_take() -> None:
    a = torch.randint(-128, 128, (5, 13), dtype=torch.int8)
    w = torch.randint(-128, 128, (13, 7), dtype=torch.int8)
    assert torch.equal(int_mm(a.cuda(), w.cuda()).cpu(), int_mm(a, w))


def test_what_has_no_integer_codes_is_said(vit: nn.Module) -> None:
    with pytest.raises(ArtifactError, match="quantize it first"):
        vitq.evaluate(vit, (IMAGES, torch.zeros(16, dtype=torch.long)), integer=True, progress=False)
    model = vitq.quantize(vit, IMAGES, recipe="rtn", bits="w8a8", progress=False)
    with pytest.raises(ExportError, match="integer codes"):
        integer_graph(model.graph, {})

"""The integer executor computes what the simulation does."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import ArtifactError, ExportError
from vitq.graph.convolution import Convolution
from vitq.integer import IntegerConvolution, IntegerLinear, IntegerProduct, int_mm, integer_graph
from vitq.quantizers import Format, Granularity, make_quantizer

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit(tiny: Callable[..., nn.Module]) -> nn.Module:
    return tiny("vit", depth=1)


@pytest.mark.parametrize("recipe", ["rtn", "repq"])
@pytest.mark.parametrize("bits", ["w2a2", "w4a6", "w8a8"])
@pytest.mark.parametrize("scope", ["paper", "deploy"])
def test_every_product_of_codes_is_an_integer_one_and_gives_the_same_logits(
    vit: nn.Module, recipe: str, bits: str, scope: str
) -> None:
    model = vitq.quantize(vit, IMAGES, recipe=recipe, bits=bits, scope=scope, progress=False)
    integer = integer_graph(model.graph, model.weights)
    assert integer.linears == sum(isinstance(m, nn.Linear) for m in vit.modules())
    assert (integer.products, integer.convolutions) == (0 if scope == "deploy" else 2, 0), "the image has no codes"
    reasons = {left.name: left.reason for left in integer.floating}
    assert reasons["patch_embed.proj/input"] == "the image has no codes"
    assert reasons["blocks.0.norm1/input"] == "not all that it reads is quantized"
    with torch.no_grad():
        expected = model(IMAGES)
        error_B = (integer.module(IMAGES) - expected).norm(dim=1) / expected.norm(dim=1)
    assert int((error_B < 1e-5).sum()) >= len(IMAGES) - 1, "one image may have a code that falls at a tie"
    assert float(error_B.max()) < 0.05


def test_the_sum_is_exact_at_the_ends_of_the_range() -> None:
    x_TI = torch.tensor([[255.0] * 2000, [-0.0] * 2000])
    a, w = make_quantizer(Format("affine", 8)), make_quantizer(Format("affine", 8, Granularity.CHANNEL), 0)
    a.set_parameters(scale=torch.tensor(1.0), zero_point=torch.tensor(0.0))
    w.set_parameters(scale=torch.ones(2, 1), zero_point=torch.tensor([[0.0], [255.0]]))
    codes_OI = torch.tensor([[255], [0]], dtype=torch.uint8).expand(2, 2000)
    y_TO = IntegerLinear(a, codes_OI, w)(x_TI)
    assert torch.equal(y_TO, torch.tensor([[1.0, -1.0], [0.0, 0.0]]) * 2000 * 255 * 255)


def test_products_are_exact_with_a_zero_point_and_a_scale_per_head() -> None:
    shape, x = (3, 1, 1), torch.randint(-9, 9, (2, 3, 5, 130)).float()
    a, b = (make_quantizer(Format("affine", 8, Granularity.HEAD), -3) for _ in range(2))
    a.set_parameters(scale=torch.tensor([1.0, 2, 4]).reshape(shape), zero_point=torch.tensor([0.0, 9, 255]).view(shape))
    b.set_parameters(scale=torch.ones(shape), zero_point=torch.full(shape, 128.0))
    right = torch.randint(-128, 128, (1, 3, 130, 4)).float()  # one for both images
    assert torch.equal(IntegerProduct(a, b)(x, right), (a(x).double() @ right.double()).float())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [((2, 2), (1, 1), (1, 1)), ((1, 2), (0, 2), (2, 1))])
def test_a_convolution_is_exact_at_its_borders_in_groups_and_transposed(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int, transposed: bool
) -> None:
    x, bias = torch.randint(-100, 100, (2, 4, 9, 8)).float(), torch.arange(8.0)
    a, w = make_quantizer(Format("affine", 8)), make_quantizer(Format("affine", 8), None)
    a.set_parameters(scale=torch.tensor(1.0), zero_point=torch.tensor(117.0))
    w.set_parameters(scale=torch.tensor(0.5), zero_point=torch.tensor(5.0))
    shape = (4, 8 // groups, 3, 2) if transposed else (8, 4 // groups, 3, 2)
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    around = [d * (k - 1) - p if transposed else p for k, p, d in zip((3, 2), padding, dilation, strict=True)]
    before = (around[0], around[1])
    geometry = Convolution((3, 2), stride, before, before, dilation, groups, transposed)
    view = w.whole_steps()
    assert view is not None
    got = IntegerConvolution(IntegerLinear(a, geometry.weight_matrix(codes), view, groups), geometry)(x, bias)
    more = (0, groups, dilation) if transposed else (dilation, groups)
    reference = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
    assert torch.equal(got, reference(a(x), w.decode(codes), bias, stride, padding, *more))


class Convolutions(nn.Module):
    """Every kind of convolution that reads codes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.up, self.line = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2), nn.Conv1d(6, 6, 3, groups=3)
        self.wide, self.head = nn.ConvTranspose1d(6, 4, 4, 2, groups=2), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(self.deep(self.stem(x).relu()).relu()).relu().flatten(2)
        logits: torch.Tensor = self.head(self.wide(self.line(y).relu()).relu().mean(-1))
        return logits


def test_grouped_depthwise_and_transposed_convolutions_are_integer_ones() -> None:
    torch.manual_seed(0)
    model = vitq.quantize(Convolutions().eval(), IMAGES[:, :, :16, :16], recipe="rtn", bits="w8a8", progress=False)
    integer = integer_graph(model.graph, model.weights)
    assert (integer.convolutions, integer.linears) == (4, 1)
    images = IMAGES[:4, :, :16, :16]
    with torch.no_grad():
        torch.testing.assert_close(integer.module(images), model(images), rtol=0.02, atol=0.005)


def test_convolutions_that_read_codes_are_integer_ones(tiny: Callable[..., nn.Module]) -> None:
    model = vitq.quantize(tiny("levit", depth=(0, 1)).eval(), IMAGES, recipe="rtn", bits="w8a8", progress=False)
    integer = integer_graph(model.graph, model.weights)
    assert integer.convolutions == 3, "of the four of the stem the first reads the image"
    images = IMAGES[:4]
    with torch.no_grad():
        torch.testing.assert_close(integer.module(images), model(images), rtol=0.02, atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda_pads_what_its_kernel_does_not_take() -> None:
    a = torch.randint(-128, 128, (5, 13), dtype=torch.int8)
    w = torch.randint(-128, 128, (13, 7), dtype=torch.int8)
    assert torch.equal(int_mm(a.cuda(), w.cuda()).cpu(), int_mm(a, w))


def test_what_has_no_integer_codes_is_said(vit: nn.Module) -> None:
    with pytest.raises(ArtifactError, match="quantize it first"):
        vitq.evaluate(vit, (IMAGES, torch.zeros(16, dtype=torch.long)), integer=True, progress=False)
    model = vitq.quantize(vit, IMAGES, recipe="rtn", bits="w8a8", scope="deploy", progress=False)
    with pytest.raises(ExportError, match="integer codes"):
        integer_graph(model.graph, {})

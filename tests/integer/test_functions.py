"""What is no product, on integer codes: each operation is the one that it stands for, of the values of the codes."""

from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.integer import IntegerProduct
from vitq.integer.functions import IntegerNorm, IntegerSoftmax, IntegerSum, IntegerTable, TokensApart
from vitq.quantizers import FORMATS, Format, Granularity, Quantizer, make_quantizer

X = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
AXES = {"tensor": None, "channel": -1, "head": -3}


def quantizer(name: str, bits: int = 8, granularity: str = "tensor", **parameters: Any) -> Quantizer:
    """Return a quantizer of the range of X, with some parameters of its own."""
    made = make_quantizer(Format(name, bits, Granularity(granularity)), AXES[granularity])
    shape = {"tensor": (), "channel": (8,), "head": (3, 1, 1)}[granularity]
    low, high = torch.full(shape, float(X.min())), torch.full(shape, float(X.max()))
    chosen = made.codec.choose_qparams(made.format, low, high)
    made.set_parameters(**{**chosen, **{key: torch.as_tensor(value) for key, value in parameters.items()}})
    return made


SCALES = 0.01 * torch.tensor([1.0, 2.0, 5.0]).reshape(3, 1, 1)


@pytest.mark.parametrize(("granularity", "more"), [("tensor", {}), ("head", {"scale": SCALES})])
def test_softmax_is_a_share_of_whole_exponentials(granularity: str, more: dict[str, Any]) -> None:
    own = quantizer("affine", 8, granularity, **more)
    torch.testing.assert_close(IntegerSoftmax(own, -1)(X), own(X).softmax(-1), rtol=1e-4, atol=1e-7)


FACTORS = {"factor": torch.tensor([1.0, 2, 4, 8, 1, 2, 4, 8])}
WHOLE = {"factor": torch.tensor([3.0, 7, 10, 100, 9, 64, 5, 31]), "scale": 0.003}
OUTLIERS = {"ratio": 16.0, "outlier": torch.tensor([0.0, 1, 0, 0, 0, 0, 1, 0])}
TABLES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "tensor", {}) for name in ("affine", "twin", "log2", "adalog", "log_sqrt2")),
    ("affine", "head", {"scale": SCALES}),
    ("power_of_two_factor", "channel", FACTORS),
]


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize(("name", "granularity", "more"), TABLES)
def test_a_function_is_a_table_of_all_codes(name: str, granularity: str, more: dict[str, Any], bits: int) -> None:
    own = quantizer(name, bits, granularity, **more)
    axis = own.axis or -1
    codes = torch.arange(2**bits, dtype=torch.uint8).reshape(-1, *[1] * -axis)
    rows = {"tensor": 1, "head": 3, "channel": 8}[granularity]
    values = own.decode(codes.expand(-1, rows, *[1] * (-1 - axis))).flatten(1).T
    table = IntegerTable(own, nn.functional.gelu(values))
    torch.testing.assert_close(table(X), nn.functional.gelu(own(X)), rtol=1e-5, atol=1e-6)


NORMS: list[tuple[str, str, dict[str, Any]]] = [
    ("affine", "tensor", {}),
    ("power_of_two_factor", "channel", FACTORS),
    ("outlier_channels", "channel", OUTLIERS),
    ("whole_factor", "channel", WHOLE),
]


@pytest.mark.parametrize(("name", "granularity", "more"), NORMS)
def test_norms_are_of_whole_sums(name: str, granularity: str, more: dict[str, Any]) -> None:
    own = quantizer(name, 6, granularity, **more)
    weight, bias = torch.linspace(0.5, 2, 8), torch.linspace(-1, 1, 8)
    wanted = nn.functional.layer_norm(own(X), (8,), weight, bias, 1e-3)
    torch.testing.assert_close(IntegerNorm(own, 1, 1e-3, centred=True)(X, weight, bias), wanted, rtol=1e-5, atol=1e-5)
    wanted = nn.functional.rms_norm(own(X), (8,), weight, 1e-3)
    torch.testing.assert_close(IntegerNorm(own, 1, 1e-3, centred=False)(X, weight), wanted, rtol=1e-5, atol=1e-5)


def test_a_sum_of_two_scales_is_whole_in_a_finer_one() -> None:
    a, b = quantizer("affine", 8, scale=0.017), quantizer("power_of_two_factor", 4, "channel", **FACTORS)
    torch.testing.assert_close(IntegerSum(a, b)(X, -X), a(X) + b(-X), rtol=1e-6, atol=2e-6)


WIDE = ["twin", "twin_sign", "piecewise", "log2", "log2_flush", "adalog", "shift_uniform_log2", "matthew", "affine"]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", WIDE)
def test_values_of_more_than_eight_bits_are_multiplied_byte_by_byte(name: str, bits: int) -> None:
    setting = {"ratio": 2.0**9} if name.startswith("twin") else {"skipped": 300.0} if name == "matthew" else {}
    a, b = quantizer(name, bits, **setting), quantizer("affine", 8)
    x = (4 * X).softmax(-1)
    wanted = (a(x).double() @ b(X.mT).double()).float()
    torch.testing.assert_close(IntegerProduct(a, b)(x, X.mT), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        IntegerProduct(b, a)(X, x.mT), (b(X).double() @ a(x.mT).double()).float(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", list(FORMATS))
def test_whole_steps_are_the_values_or_there_are_none(name: str, bits: int) -> None:
    if name == "subset" and bits > 4:
        pytest.skip("it has 2 to 4 bits")
    own = quantizer(name, bits)
    view, codes = own.whole_steps(), torch.arange(2**bits, dtype=torch.uint8)
    if view is None:
        assert name in ("log_sqrt2", "codebook", "pwlq") and own.integer_view() is None
        return
    wholes = view.spread(codes)
    assert (view.steps <= 255) == (wholes.dtype is torch.uint8) and int(wholes.min()) >= 0
    assert int(wholes.max()) <= view.steps
    values, exact = (wholes.double() - view.zero_point.double()) * view.scale.double(), own.decode(codes).double()
    torch.testing.assert_close(values, exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))


IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(4))
FAST = {"calibrate.weights": "minmax", "calibrate.activations": "minmax"}


@pytest.mark.parametrize(("recipe", "bits"), [("fq-vit", "w8a8"), ("mptq-vit", "w4a4")])
def test_scope_full_works_on_integers_but_for_what_is_named(
    one_block: nn.Module, recipe: str, bits: str, tmp_path: Any
) -> None:
    given = {**FAST, "insert.scope": "full"}
    model = vitq.quantize(one_block, IMAGES, recipe=recipe, bits=bits, overrides=given, progress=False)
    integer = model.integer()
    counts = {kind: count for kind, count in integer.operations.counts.items() if count}
    assert counts == {
        "linears": 4,
        "products of two activations": 2,
        "norms": 2,
        "softmaxes": 1,
        "activation functions": 1,
        "residual sums": 2,
    }
    left = {(entry.operation, entry.reason) for entry in integer.operations.floating}
    assert left == {("conv2d", "the image has no codes"), ("mean", "it has no integer form here")}
    assert "conv2d, the image has no codes: patch/input" in repr(integer)
    expected = model(IMAGES)
    error_B = (integer(IMAGES) - expected).norm(dim=1) / expected.norm(dim=1)
    assert int((error_B < 1e-5).sum()) >= len(IMAGES) - 1, "one image may have a code that falls at a tie"
    model.save(tmp_path / "run")
    assert torch.equal(vitq.load(tmp_path / "run").integer()(IMAGES), integer(IMAGES))


class MassiveToken(nn.Module):
    """A token far larger than the 36 patches; two linears, two sums and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.own = nn.Conv2d(3, 8, 4, 4), nn.Parameter(200 * torch.randn(1, 1, 8))
        self.fc, self.more, self.norm, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).mT
        x_BTC = torch.cat((self.own.expand(len(x_BTC), -1, -1), x_BTC), 1)
        x_BTC = x_BTC + self.fc(x_BTC)
        x_BTC = x_BTC + self.more(x_BTC)
        logits_BK: torch.Tensor = self.head(self.norm(x_BTC)[:, :2].mean(1))
        return logits_BK


def test_tokens_with_scales_of_their_own_are_normed_and_added_in_integers() -> None:
    images = torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    given = {**FAST, "insert.scope": "full"}
    model = vitq.quantize(MassiveToken(), images, recipe="fq-vit", bits="w8a6", overrides=given, progress=False)
    assert model.metrics.outliers is not None
    integer = model.integer()
    assert integer.operations.counts["norms"] == 1 and integer.operations.counts["residual sums"] == 2
    assert any(isinstance(module, TokensApart) for module in integer.operations.module.modules())
    torch.testing.assert_close(integer(images), model(images), rtol=1e-4, atol=1e-4)

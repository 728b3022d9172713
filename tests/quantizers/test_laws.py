"""What every registered format owes, also one that is added later: codes that pack, gradients, and a lowering."""

import re
from pathlib import Path

import pytest
import torch

from vitq.calibrate.assign import search_alone
from vitq.calibrate.member import Member
from vitq.errors import ExportError, RecipeError
from vitq.graph import Role, Site
from vitq.quantizers import FORMATS, Format, Granularity, Quantizer, fake_quantize, make_quantizer, pack, unpack

FORMATS_HERE = sorted(FORMATS.built_in())
BITS = (2, 4, 8)
TESTS = Path(__file__).parent


def drawn(signed: bool, *shape: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x if signed else (3 * x).softmax(-1)


def searched(name: str, bits: int, granularity: Granularity = Granularity.TENSOR) -> tuple[Quantizer, torch.Tensor]:
    """Return a quantizer that a search has set, and the tensor that it was set on."""
    codec = FORMATS[name]
    try:
        form = Format(name, bits, granularity)
        quantizer = make_quantizer(form, None if granularity == Granularity.TENSOR else 0 if codec.weights_only else -1)
    except RecipeError as error:
        pytest.skip(str(error))
    x = drawn(codec.signed, 6, 40)
    search_alone(Member(Site("x", "x", Role.WEIGHT if codec.weights_only else Role.OTHER, ()), x, quantizer), "mse")
    return quantizer, x


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", FORMATS_HERE)
def test_simulation_is_decoding_of_codes_that_pack(name: str, bits: int) -> None:
    quantizer, x = searched(name, bits, Granularity.CHANNEL)
    codes = quantizer.encode(1.5 * x)
    assert torch.equal(quantizer(1.5 * x), quantizer.decode(codes)) and int(codes.max()) < 2**bits
    assert torch.equal(unpack(pack(codes, bits), bits, codes.shape), codes)
    assert float((quantizer(x) - x).square().mean()) < float(x.square().mean())


@pytest.mark.parametrize("name", FORMATS_HERE)
def test_gradients_pass_inside_the_range_and_are_finite(name: str) -> None:
    quantizer, x = searched(name, 4)
    x = (2 * x).requires_grad_()
    p = {key: tensor.requires_grad_() for key, tensor in quantizer.parameters_dict().items()}
    y = fake_quantize(quantizer.codec, x, quantizer.format.qmax, p)
    of_x, *others = torch.autograd.grad(y.sum(), (x, *p.values()), allow_unused=True)
    low, high = quantizer.codec.value_range(quantizer.format.qmax, p)
    assert torch.equal(of_x, ((x >= low) & (x <= high)).float())
    assert all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in others)
    learnt = [parameter.name for parameter in quantizer.codec.parameters if parameter.learnt]
    given = dict(zip(p, others, strict=True))
    assert all(given[key] is not None for key in learnt)


@pytest.mark.parametrize("name", FORMATS_HERE)
def test_a_numpy_reference_is_among_the_tests(name: str) -> None:
    files = [path for path in TESTS.glob("test_*.py") if path.name != Path(__file__).name]
    texts = [text for text in (path.read_text("utf-8") for path in files) if "numpy" in text]
    assert any(re.search(rf"[\"']{name}[\"']", text) for text in texts), f"no test compares '{name}' with NumPy"


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", FORMATS_HERE)
def test_an_activation_has_a_lowering_or_a_plain_refusal(name: str, bits: int) -> None:
    pytest.importorskip("onnxscript")
    from vitq.export.lowerings import LOWERINGS, operation_of, refusal

    quantizer, x = searched(name, bits)
    assert name in LOWERINGS
    quantizer.site = "x"
    reason, lowering = refusal(quantizer, is_weight=False), LOWERINGS[name]
    if FORMATS[name].weights_only:
        assert "format of weights alone" in reason
        with pytest.raises(ExportError, match=r"site 'x'.*weights alone"):
            lowering.arguments(quantizer, quantizer.parameters_dict())
    if reason:
        assert len(reason) > 20 and reason == reason.strip()
        return
    used = lowering if quantizer.has_integer_values else lowering.floating or lowering
    x = torch.cat((1.3 * x, 0 * x))
    y = operation_of(used.operation)(x, *used.arguments(quantizer, quantizer.parameters_dict()))
    torch.testing.assert_close(y, quantizer(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", FORMATS_HERE)
def test_a_weight_has_a_lowering_or_a_plain_refusal(name: str, bits: int) -> None:
    pytest.importorskip("onnxscript")
    from vitq.export.lowerings import LOWERINGS, operation_of, refusal

    quantizer, w = searched(name, bits)
    weight, reason = LOWERINGS[name].weight, refusal(quantizer, is_weight=True)
    assert bool(reason) == (weight is None) and (not reason or len(reason) > 20)
    if weight is not None:
        codes, tensors = weight.codes(quantizer, quantizer.encode(w), False)
        assert torch.equal(operation_of(weight.operation)(codes, *tensors.values(), 0), quantizer(w))


def test_a_format_of_the_caller_s_is_refused_in_words_where_it_has_no_lowering() -> None:
    pytest.importorskip("onnxscript")
    from vitq.export.lowerings import refusal

    quantizer = make_quantizer(Format("log2", 4))
    quantizer.format = Format("of_my_own", 4)
    assert all("has no lowering" in refusal(quantizer, is_weight=weight) for weight in (False, True))


@pytest.mark.parametrize("name", FORMATS_HERE)
def test_it_says_how_it_becomes_integers(name: str) -> None:
    assert len(FORMATS[name].lowering) > 20

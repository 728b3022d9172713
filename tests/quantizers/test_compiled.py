"""Compiled kernels give what eager ones give, and their absence is survived."""

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vitq.quantizers import FORMATS, DropMask, compile_failure, compiled, fake_quantize, use_compiled_kernels

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="torch.compile on a CPU needs a C++ compiler")


@pytest.fixture(autouse=True)
def _fresh_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_STATE", compiled._State(functions=compiled._STATE.functions))


def run(
    name: str, x: torch.Tensor, s: torch.Tensor, z: torch.Tensor | None, mask: torch.Tensor | None
) -> list[torch.Tensor]:
    inputs = [t.detach().requires_grad_() for t in (x, s) + (() if z is None else (z,))]
    parameters = dict(zip(("scale", "zero_point"), inputs[1:], strict=False))
    y = fake_quantize(FORMATS[name], inputs[0], 15, parameters, keep_mask=mask)
    weights = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)]


def compare(*arguments: Any) -> None:
    eager = run(*arguments)
    with use_compiled_kernels(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fast = run(*arguments)
    assert compile_failure() is None
    assert torch.equal(fast[0].view(torch.int32), eager[0].view(torch.int32)), "values, bit for bit"
    assert torch.equal(fast[1], eager[1]), "gradient of x"
    for a, b in zip(fast[2:], eager[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)  # sums in another order


@needs_compiler
def test_affine_per_tensor_with_drop_mask() -> None:
    torch.manual_seed(0)
    for shape in ((8, 50, 64), (4, 65, 68)):  # the second one without recompiling
        x = torch.randn(shape)
        compare("affine", x, torch.tensor(0.3), torch.tensor(7.4), DropMask()(x))


@needs_compiler
def test_affine_per_head_of_a_transposed_tensor() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 33, 6, 32).transpose(1, 2)
    s, z = torch.rand(6, 1, 1) + 0.1, torch.rand(6, 1, 1) * 15
    compare("affine", x, s, z, DropMask()(x))
    compare("affine", x, s, z, torch.rand(4, 6, 33, 32) < 0.5)  # a mask in another memory order


@needs_compiler
def test_log_sqrt2_per_tensor() -> None:
    x = torch.rand(2, 4, 50, 51, generator=torch.Generator().manual_seed(0)).pow(6)
    x[0, 0] = 0.0
    compare("log_sqrt2", x, torch.tensor(0.9), None, None)


@needs_compiler
@pytest.mark.parametrize("name", ["log2", "log2_flush"])
def test_log2_has_the_same_codes(name: str) -> None:
    x = torch.rand(2, 4, 50, 51, generator=torch.Generator().manual_seed(0)).pow(6)
    x[0, 0] = 0.0
    compare(name, x, torch.tensor(0.9), None, None)


@needs_compiler
def test_piecewise_per_tensor_with_and_without_gradients() -> None:
    x = torch.nn.functional.gelu(torch.randn(4, 50, 96, generator=torch.Generator().manual_seed(0)) * 2)
    s, z = torch.tensor(0.07), torch.tensor(2.0)
    compare("piecewise", x, s, z, None)
    codec, p = FORMATS["piecewise"], {"scale": s, "zero_point": z}
    with torch.no_grad(), use_compiled_kernels():
        codes = codec.quantize(x, 15, p).clamp(0, 15)
        assert torch.equal(fake_quantize(codec, x, 15, p), codec.dequantize(codes, 15, p))


def test_without_a_compiler_it_warns_once_and_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled, "_compile", broken)
    monkeypatch.setattr(compiled, "_STATE", compiled._State())
    x = torch.randn(200, 100)
    arguments = ("affine", x, torch.tensor(0.3), torch.tensor(7.0), DropMask()(x))
    eager = run(*arguments)
    with use_compiled_kernels():
        with pytest.warns(UserWarning, match="eager mode.*no compiler here"):
            first = run(*arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second = run(*arguments)
    for result in (first, second):
        assert torch.equal(result[0], eager[0])
        for a, b in zip(result[1:], eager[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert "no compiler here" in str(compile_failure())


def test_off_by_default_and_restored_after_an_error() -> None:
    assert not compiled.compiling()
    with pytest.raises(ValueError, match="inside"), use_compiled_kernels():
        assert compiled.compiling()
        with use_compiled_kernels(False):
            assert not compiled.compiling()
        raise ValueError("inside")
    assert not compiled.compiling()

"""Gradients of the fused function against slow autograd references and finite differences."""

import pytest
import torch

from vitq.quantizers import FORMATS, Format, fake_quantize, fake_quantize_affine

SHAPES = [(), (5,), (4, 1), (3, 1, 1)]


def ste(exact: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    return exact.detach() + smooth - smooth.detach()


def slow_affine(
    x: torch.Tensor, s: torch.Tensor, z: torch.Tensor, qmax: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """LSQ+: clip, then round straight through."""
    zero = ste(z.round(), z)
    position = torch.minimum(torch.maximum(x / s, -zero), qmax - zero)
    y = ste(position.round(), position) * s
    return y if mask is None else torch.where(mask, y, x)


def slow_log(name: str, x: torch.Tensor, s: torch.Tensor, qmax: int) -> torch.Tensor:
    """x̂ = s * f(clip(x / s)), f straight through, f taken from the format itself."""
    codec, one = FORMATS[name], {"scale": torch.ones(())}
    ends = codec.dequantize(torch.tensor([0.0, qmax]), qmax, one)
    ratio = torch.minimum(torch.maximum(x / s, ends.min()), ends.max())
    codes = codec.quantize(x.detach(), qmax, {"scale": s.detach()}).clamp(0, qmax)
    return ste(codec.dequantize(codes, qmax, one), ratio) * s


def grads(y: torch.Tensor, g: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad((y * g).sum(), inputs))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_affine_matches_slow_autograd(bits: int, shape: tuple[int, ...], masked: bool) -> None:
    torch.manual_seed(bits)
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    s = (torch.rand(shape) * 3 / 2**bits + 0.01).requires_grad_()
    z = (torch.rand(shape) * 2**bits * 0.6).requires_grad_()
    g, mask = torch.randn_like(x), torch.rand_like(x) < 0.5 if masked else None
    fast = fake_quantize_affine(x, s, z, 2**bits - 1, mask)
    slow = slow_affine(x, s, z, 2**bits - 1, mask)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    for a, b in zip(grads(fast, g, x, s, z), grads(slow, g, x, s, z), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["log2", "log2_flush", "log_sqrt2"])
def test_logarithmic_matches_slow_autograd(name: str, bits: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(bits)
    x = torch.rand(2, 3, 4, 5).pow(4).requires_grad_()
    s = (torch.rand(shape) * 0.3 + 0.2).requires_grad_()
    g = torch.randn_like(x)
    fast = fake_quantize(FORMATS[name], x, 2**bits - 1, {"scale": s})
    slow = slow_log(name, x, s, 2**bits - 1)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    for a, b in zip(grads(fast, g, x, s), grads(slow, g, x, s), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def unit(name: str, bits: int) -> dict[str, torch.Tensor]:
    """Return parameters for values from 0 to 1."""
    ends = torch.zeros(1, 1), torch.ones(1, 1)
    chosen = FORMATS[name].choose_qparams(Format(name, bits), *ends)
    return {key: tensor.reshape(tensor.shape[2:]) for key, tensor in chosen.items()}


SCALED = sorted(name for name, codec in FORMATS.items() if codec.parameters[0].name == "scale")


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("name", SCALED)
def test_scale_gradient_is_the_slope_over_many_elements(name: str, bits: int) -> None:
    """Rounding jumps average out over a dense tensor: the straight-through slope is the true one."""
    x = torch.linspace(0, 3, 300_001, dtype=torch.float32)
    codec, qmax, h, p = FORMATS[name], 2**bits - 1, 0.05, unit(name, bits)
    s0 = float(p["scale"])

    def mean(scale: float) -> float:
        return float(fake_quantize(codec, x, qmax, {**p, "scale": torch.tensor(scale)}).double().mean())

    s = torch.tensor(s0, requires_grad=True)
    (slope,) = torch.autograd.grad(fake_quantize(codec, x, qmax, {**p, "scale": s}).mean(), s)
    measured = (mean(s0 * (1 + h)) - mean(s0 * (1 - h))) / (2 * h * s0)
    assert float(slope) == pytest.approx(measured, rel=0.05)


def test_zero_point_gradient_is_the_slope_over_many_elements() -> None:
    x, s = torch.linspace(-4, 4, 100_001), torch.tensor(0.25)
    z = torch.tensor(7.0, requires_grad=True)
    (slope,) = torch.autograd.grad(fake_quantize_affine(x, s, z, 15).mean(), z)
    up, down = (fake_quantize_affine(x, s, torch.tensor(v), 15).mean() for v in (8.0, 6.0))
    assert float(slope) == pytest.approx(float(up - down) / 2, rel=0.02)


@pytest.mark.parametrize("name", SCALED)
def test_gradient_descent_on_the_scale_reduces_the_error(name: str) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).abs()
    codec, p = FORMATS[name], unit(name, 4)
    start = 0.3 * float(p["scale"])
    s = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=start / 3)
    losses = []
    for _ in range(60):
        loss = (fake_quantize(codec, x, 15, {**p, "scale": s}) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_extreme_inputs_have_finite_gradients() -> None:
    x = torch.tensor([0.0, 1e30, -1e30, 1e-30], requires_grad=True)
    for scale in (1e-38, 1.0, 1e30):
        s, z = torch.tensor(scale, requires_grad=True), torch.tensor(3.0, requires_grad=True)
        for gradient in grads(fake_quantize_affine(x, s, z, 15), torch.ones(4), x, s, z):
            assert bool(torch.isfinite(gradient).all())


def test_a_scale_that_fell_below_zero_is_clamped_and_can_return() -> None:
    x = torch.rand(10)
    s = torch.tensor(-0.1, requires_grad=True)
    y = fake_quantize_affine(x, s, torch.tensor(0.0), 15)
    (gradient,) = torch.autograd.grad((y - x).square().sum(), s)
    assert bool(torch.isfinite(y).all())
    assert float(gradient) < 0, "descent raises the scale"

"""Scope ``full`` from capture to the integer executor, on models of every shape: what works on integers is counted."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import ZOO, ClipTower, zoo
from torch import nn

import vitq

MODELS = {
    "windows": {"linears": 5, "norms": 4, "activation functions": 1, "softmaxes": 0},
    "clip": {"linears": 7, "norms": 4, "activation functions": 1, "softmaxes": 1},
    "maxvit": {"convolutions": 6, "norms": 5, "activation functions": 7, "softmaxes": 0},
    "hiera": {"linears": 10, "norms": 5, "activation functions": 2, "softmaxes": 2},
}
FAST = {"calibrate.weights": "minmax", "calibrate.activations": "minmax"}


def made(name: str, tiny: Callable[..., nn.Module]) -> tuple[nn.Module, int]:
    if name in ZOO:
        return zoo(name), ZOO[name][0]
    torch.manual_seed(0)
    model = ClipTower() if name == "clip" else tiny("swin", depths=(1,), num_heads=(2,))
    with torch.no_grad():  # heads that begin at zero say nothing
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model, 32


@pytest.mark.parametrize("name", MODELS)
def test_scope_full_of_any_model_works_on_integers_and_reloads(
    tiny: Callable[..., nn.Module], tmp_path: Any, name: str
) -> None:
    model, size = made(name, tiny)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    quantized = vitq.quantize(model, x, recipe="fq-vit", bits="w8a8", overrides=FAST, progress=False)
    integer, expected = quantized.integer(), quantized(x)
    counts = integer.operations.counts
    assert {kind: counts[kind] for kind in MODELS[name]} == MODELS[name]
    assert counts["products of two activations"] % 2 == 0 and counts["residual sums"] >= 2
    kinds = Counter(left.operation for left in integer.operations.floating)
    assert kinds["softmax"] == {"windows": 1, "maxvit": 2}.get(name, 0)  # their biases are added before it
    assert kinds["conv2d"] >= 1 and "linear" not in kinds and "matmul" not in kinds
    error_B = (integer(x) - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error_B.max()) < 0.05, "a code that falls at a tie moves a logit a little"
    quantized.save(tmp_path / "run")
    assert torch.equal(vitq.load(tmp_path / "run")(x), expected)

"""Additive masks: what they hide gets no probability, and the model stays the same."""

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from vitq.graph import capture
from vitq.graph.ops import SOFTMAX, is_op

pytestmark = pytest.mark.usefixtures("captured_anew")
TINY = torch.finfo(torch.float32).tiny


class Masked(nn.Module):
    """Probabilities under a mask that hides every second key, with ``row`` the first query's others too;
    ``elsewhere`` reads the mask once more.
    """

    def __init__(self, depth: float, elsewhere: bool = False, row: bool = False) -> None:
        super().__init__()
        mask_NN = torch.zeros(8, 8)
        mask_NN[:, ::2] = depth
        if row:
            mask_NN[0] = depth
        self.register_buffer("mask", mask_NN)
        self.elsewhere = elsewhere
        self.fc = nn.Linear(8, 8)

    def forward(self, x_BNN: torch.Tensor) -> torch.Tensor:
        y_BNN = (self.fc(x_BNN) + self.mask).softmax(-1)
        return y_BNN * self.mask if self.elsewhere else y_BNN


class Probabilities(fx.Interpreter):
    """Run a graph and keep what every softmax returns."""

    def run_node(self, n: fx.Node) -> torch.Tensor:
        result: torch.Tensor = super().run_node(n)
        if is_op(n, SOFTMAX):
            self.seen = [*getattr(self, "seen", []), result]
        return result


def subnormal(x: torch.Tensor) -> bool:
    return bool(((x > 0) & (x < TINY)).any())


@pytest.mark.parametrize("fused", [False, True])
def test_shifted_windows_leave_no_subnormal_probability(tiny: Callable[..., nn.Module], fused: bool) -> None:
    model = tiny("swin", depths=(2,), num_heads=(2,)).eval()  # one stage; its second block shifts
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    x_BCHW = torch.randn(2, 3, 32, 32)

    graph = capture(model, x_BCHW)
    run = Probabilities(graph.module)

    torch.testing.assert_close(run.run(x_BCHW), model(x_BCHW), rtol=1e-5, atol=1e-6)
    assert any(bool((p == 0).any()) for p in run.seen)
    assert not any(subnormal(p) for p in run.seen)


@pytest.mark.parametrize("depth", [-1e4, -100.0, -90.0, -50.0])
def test_what_a_mask_hides_keeps_its_probability_to_1e_30(depth: float) -> None:
    model, x_BNN = Masked(depth).eval(), torch.randn(2, 8, 8)

    found = capture(model, x_BNN)(x_BNN)

    torch.testing.assert_close(found, model(x_BNN), rtol=1e-6, atol=1e-30)
    assert not subnormal(found)


@pytest.mark.parametrize("options", [{"elsewhere": True}, {"row": True}])
def test_a_mask_read_elsewhere_or_that_hides_a_whole_row_stays(options: dict[str, bool]) -> None:
    model, x_BNN = Masked(-100.0, **options).eval(), torch.randn(2, 8, 8)

    graph = capture(model, x_BNN)

    assert float(graph.module.get_buffer("mask").min()) == -100.0
    torch.testing.assert_close(graph(x_BNN), model(x_BNN))


def test_the_caller_s_mask_stays() -> None:
    model = Masked(-100.0).eval()

    capture(model, torch.randn(2, 8, 8))

    assert float(model.get_buffer("mask").min()) == -100.0

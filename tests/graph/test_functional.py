"""The graph without a second trace gives what the model gives, writes over nothing, and says when it is traced."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import ExportedProgram

from vitq.graph.functional import functional

Call = Callable[[Any, torch.Tensor], torch.Tensor]


class Model(nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call, self.conv, self.norm = call, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.bare = nn.BatchNorm2d(8, affine=False)
        for norm in (self.norm, self.bare):
            assert norm.running_mean is not None
            norm.running_mean.normal_()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.call(self, x_BCHW)


SPELT: dict[str, Call] = {
    "flatten": lambda m, x: x.flatten(2),
    "unflatten": lambda m, x: x.unflatten(1, (2, 4)),
    "reshape as": lambda m, x: x.reshape_as(x.transpose(2, 3)),
    "expand as": lambda m, x: x.mean((1, 2), keepdim=True).expand_as(x),
    "normalize": lambda m, x: F.normalize(x, dim=1),
    "type": lambda m, x: x.to(torch.float64).to(torch.float64),
    "mT": lambda m, x: x.mT,
    "norm": lambda m, x: m.norm(x),
    "no affine": lambda m, x: m.bare(x),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "chunks": lambda m, x: torch.cat(x.chunk(3, dim=1)[::-1], 1),
    "contiguous": lambda m, x: x.transpose(1, 3).contiguous().view(-1, 8),
    "in place on a product": lambda m, x: F.relu_(m.conv(x)),
    "sizes of two": lambda m, x: x.flatten(0, 1),
    "a copy into": lambda m, x: torch.zeros_like(x).copy_(x),
    "in place on what is read": lambda m, x: read_again(m.conv(x)),
    "in place twice": lambda m, x: F.relu_(m.conv(x).add_(x)),
    "in place on a norm": lambda m, x: F.hardswish(m.norm(m.conv(x)), inplace=True),
}
TRACED: dict[str, Call] = {
    "expand over the batch": lambda m, x: x.sum(0).expand_as(x),
    "in place on a view": lambda m, x: viewed(m.conv(x)),
    "in place on a part": lambda m, x: part(m.conv(x)),
    "no gradient": lambda m, x: apart(x),
}


def read_again(y: torch.Tensor) -> torch.Tensor:
    return F.relu_(y) + y


def viewed(y: torch.Tensor) -> torch.Tensor:
    y.transpose(1, 2).add_(1)
    return y


def part(y: torch.Tensor) -> torch.Tensor:
    y[:, 0] += 1
    return y


def apart(x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        return x * 2


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    seen: list[ExportedProgram] = []
    own = ExportedProgram.run_decompositions

    def counted(program: ExportedProgram, *args: Any) -> Any:
        seen.append(program)
        return own(program, *args)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    return seen


@pytest.mark.parametrize("name", [*SPELT, *TRACED])
def test_values_are_the_models_and_nothing_is_written_over(name: str, traces: list[ExportedProgram]) -> None:
    model = Model((SPELT | TRACED)[name]).eval()
    x_BCHW = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(1))
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with torch.no_grad():
        module = functional(torch.export.export(model, (x_BCHW,), dynamic_shapes=shapes))
        assert bool(traces) == (name in TRACED)
        for images in (x_BCHW, torch.cat((x_BCHW, x_BCHW, x_BCHW[:1]))):
            before = images.clone()
            torch.testing.assert_close(module(images), model(images), rtol=0, atol=0)
            assert images.equal(before)
    operators = [n.target for n in module.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert not [operator for operator in operators if operator._schema.is_mutable]

import pytest
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from vitq.export.program import program


class Ends(nn.Module):
    """A linear, and behind it what is given."""

    def __init__(self, end: object) -> None:
        super().__init__()
        self.linear, self.end = nn.Linear(4, 4), end

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        y_BC: torch.Tensor = self.end(self.linear(x_BC))  # type: ignore[operator]
        return y_BC


@pytest.mark.parametrize(
    ("end", "traces"),
    [(torch.relu, 0), (lambda x: x.clone().mul_(2), 1), (lambda x: torch.rsub(x, 1), 1)],
    ids=["nothing to take apart", "in place", "in the table"],
)
def test_only_what_has_to_be_taken_apart_is_traced_again(
    end: object, traces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    right = ExportedProgram.run_decompositions

    def counted(self: ExportedProgram, *args: object, **options: object) -> ExportedProgram:
        calls.append(self)
        return right(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    table = {torch.ops.aten.rsub.Scalar: lambda x, other, alpha=1: torch.sub(other, x, alpha=alpha)}
    model, x_BC = Ends(end), torch.randn(3, 4)
    made = program(fx.symbolic_trace(model), x_BC, Dim("batch", min=1, max=8)).run_decompositions(table)
    assert len(calls) == traces
    assert not any(node.target in (*table, torch.ops.aten.mul_.Tensor) for node in made.graph.nodes)
    assert torch.equal(made.module()(x_BC), model(x_BC))

"""Step ``relu_mlp``: MLPs get ReLUs, in any way that a GELU is written, and stay near what they gave."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.errors import RecipeError
from vitq.graph import Graph, Role, capture
from vitq.graph.ops import aten, is_op
from vitq.graph.queries.mlps import mlps
from vitq.graph.serialize import require_savable
from vitq.reconstruct import ReluMlp
from vitq.reconstruct.relu_fit import Rows, error, quantile_of_positive, solved, trained
from vitq.rewrite import Rotate
from vitq.run.checkpoints import Checkpoints
from vitq.run.run import Run
from vitq.tasks.distances import relative_square

QUICK = ReluMlp(steps=20, tokens=256)


class Mlps(nn.Module):
    """Residual MLPs with any activation functions, a dropout inside, and one whose hidden values are read twice."""

    def __init__(self, *functions: Callable[[torch.Tensor], torch.Tensor], twice: bool = False) -> None:
        super().__init__()
        self.functions, self.twice = functions, twice
        self.stem, self.norm, self.head, self.drop = nn.Linear(32, 8), nn.LayerNorm(8), nn.Linear(8, 3), nn.Dropout(0.1)
        self.first = nn.ModuleList(nn.Linear(8, 16) for _ in functions)
        self.second = nn.ModuleList(nn.Linear(16, 8, bias=k % 2 == 0) for k in range(len(functions)))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.stem(x_BCHW.flatten(1, 2))
        for first, function, second in zip(self.first, self.functions, self.second, strict=True):
            hidden = function(first(self.norm(x)))
            x = x + second(self.drop(hidden))
            if self.twice:
                x = x + hidden.mean(-1, keepdim=True)
        return self.head(x).mean(1)


def make(model: nn.Module) -> Run:
    torch.manual_seed(0)
    x_NCHW = torch.randn(20, 3, 32, 32)
    teacher = capture(model.eval(), x_NCHW[:2])
    return Run(teacher, teacher.clone(), x_NCHW, Bits.parse("w4a4"))


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def written_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def outputs(graph: Graph, run: Run) -> torch.Tensor:
    with torch.no_grad():
        return graph(run.images_NCHW)


def test_every_mlp_gets_a_relu_under_the_name_of_its_function_and_the_model_stays_near() -> None:
    torch.manual_seed(0)
    run = make(Mlps(nn.functional.gelu, quick_gelu, nn.functional.silu, written_gelu, torch.relu))
    names, seen = [node.name for node in run.student.module.graph.nodes], []
    found = mlps(run.student)[0]
    assert [mlp.name for mlp in found] == ["first.0", "first.1", "first.2", "first.3"]
    run.events.log = lambda kind, **facts: seen.append((kind, facts))  # type: ignore[method-assign]
    QUICK.apply(run)
    for mlp in found:
        node = next(n for n in run.student.module.graph.nodes if n.name == mlp.activation.name)
        assert is_op(node, {aten.relu.default}) and node.meta["val"] is not None
    assert set(names) >= {node.name for node in run.student.module.graph.nodes}
    facts = dict(seen)["relu_mlp"]["layers"]
    assert all(f["after"] <= f["solved"] < f["before"] for f in facts.values())
    assert relative_square(outputs(run.student, run), outputs(run.teacher, run)) < 0.05
    require_savable(run.student.module)
    roles = [site.role for site in run.student.sites.values()]
    assert roles.count(Role.POST_ACTIVATION) == 5


def test_hidden_values_that_somebody_else_reads_keep_their_function() -> None:
    run = make(Mlps(nn.functional.gelu, twice=True))
    found, refused = mlps(run.student)
    assert not found and "too" in refused["second.0"]
    QUICK.apply(run)
    torch.testing.assert_close(outputs(run.student, run), outputs(run.teacher, run), rtol=0, atol=0)


def test_a_gelu_stays_where_no_relu_is_near_enough() -> None:
    run = make(Mlps(nn.functional.gelu))
    QUICK.model_copy(update={"largest_error": 1e-9}).apply(run)
    torch.testing.assert_close(outputs(run.student, run), outputs(run.teacher, run), rtol=0, atol=0)


def test_it_goes_with_rotations_and_with_quantization_and_is_read_back(
    tiny: Callable[..., nn.Module], tmp_path: Path
) -> None:
    runs = [make(tiny("vit", depth=1)) for _ in range(2)]
    for run, resume in zip(runs, (False, True), strict=True):
        Rotate(choose=False).apply(run)
        run.checkpoints = Checkpoints(tmp_path, {}, resume=resume)
        run.stage = "relu"
        (QUICK if not resume else QUICK.model_copy(update={"steps": 0})).apply(run)
        run.checkpoints = Checkpoints()
        Insert().apply(run)
        Calibrate(images=4, weights="mse", activations="mse").apply(run)
    first, second = (outputs(run.student, run) for run in runs)
    assert torch.equal(first, second) and torch.isfinite(first).all()


def test_quantized_students_and_too_few_images_are_refused(one_block: nn.Module) -> None:
    run = make(Mlps(nn.functional.gelu))
    run.images_NCHW = run.images_NCHW[:4]
    with pytest.raises(RecipeError, match="at least 5"):
        QUICK.apply(run)
    Insert().apply(run)
    with pytest.raises(RecipeError, match="before 'insert'"):
        QUICK.apply(run)


@pytest.mark.parametrize("biased", [False, True])
def test_least_squares_finds_an_mlp_that_has_a_relu_already(biased: bool) -> None:
    torch.manual_seed(0)
    true = {"first weight": torch.randn(12, 6), "second weight": torch.randn(5, 12)}
    if biased:
        true |= {"first bias": torch.randn(12), "second bias": torch.randn(5)}
    x_RI = torch.randn(4000, 6)
    hidden = torch.relu(nn.functional.linear(x_RI, true["first weight"], true.get("first bias")))
    rows = Rows(x_RI, nn.functional.linear(hidden, true["second weight"], true.get("second bias")))
    start = {**true, "second weight": torch.zeros(5, 12)}
    assert error(solved(start, rows), rows) < 1e-4 < error(start, rows)


def test_hidden_values_that_are_all_zero_have_a_solution() -> None:
    weights = {"first weight": -torch.ones(12, 6), "second weight": torch.randn(5, 12)}
    rows = Rows(torch.rand(100, 6), torch.randn(100, 5))
    assert torch.equal(solved(weights, rows)["second weight"], torch.zeros(5, 12))


def test_training_lowers_the_error_and_clipping_keeps_hidden_values_useful() -> None:
    torch.manual_seed(0)
    x_RI = torch.randn(2000, 6)
    start = {"first weight": torch.randn(12, 6), "second weight": torch.randn(5, 12)}
    rows = Rows(x_RI, nn.functional.linear(nn.functional.gelu(x_RI @ start["first weight"].T), start["second weight"]))
    options = {"steps": 60, "tokens": 256, "rate": 1e-2, "clip": 1.0}
    plain, clipped = (
        trained(solved(start, rows), rows, clipped=c, generator=torch.Generator().manual_seed(0), **options)
        for c in (0.0, 10.0)
    )
    assert error(plain, rows) < error(solved(start, rows), rows)

    def cut(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.relu(x_RI @ weights["first weight"].T).clamp(max=1.0)
        return relative_square(hidden @ weights["second weight"].T, rows.y_RO)

    assert cut(clipped) < cut(plain)


def test_the_quantile_is_that_of_positive_values_alone() -> None:
    assert quantile_of_positive(torch.tensor([-9.0, -1.0, 1.0, 2.0, 3.0]), 0.5) == 2.0
    assert quantile_of_positive(-torch.ones(3), 0.5) == float("inf")

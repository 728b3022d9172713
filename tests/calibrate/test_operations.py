"""Transposed and one-dimensional convolutions are quantized; what is not supported says so."""

import pytest
import torch
from torch import nn

import vitq
from vitq.bits import Bits
from vitq.calibrate import Insert, scope_rows
from vitq.errors import CalibrationError, ModelError, RecipeError
from vitq.graph import capture
from vitq.graph.unsupported import find_unsupported
from vitq.reconstruct.variables.learnable import learnable
from vitq.run.run import Run
from vitq.run.step import Step


class Upsampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.grouped = nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2)
        self.line = nn.Conv1d(4, 4, 3, padding="same")
        self.back = nn.ConvTranspose1d(4, 5, 2, 2)
        self.head = nn.Linear(5, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.grouped(torch.relu(self.up(self.stem(x)))).flatten(2)
        return self.head(self.back(torch.relu(self.line(y))).mean(-1))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.Bilinear(8, 8, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x).mean((2, 3))
        return self.head(self.mix(y, y))


def _run(model: nn.Module, images: torch.Tensor) -> Run:
    graph = capture(model.eval(), images[:2])
    return Run(graph, graph.clone(), images, Bits.parse("w8a8"))


def _apply(run: Run, step: Step) -> None:
    step.apply(run)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scope", ["paper", "deploy"])
def test_transposed_and_one_dimensional_convolutions_are_sites(scope: str, images: torch.Tensor, tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = Upsampler().eval()
    quantized = vitq.quantize(model, images, bits="w8a8", recipe="rtn", scope=scope, progress=False)
    layers = ("stem", "up", "grouped", "line", "back", "head")
    assert {f"{name}/weight" for name in layers} <= set(quantized.weights)
    assert quantized.weights["up/weight"].get_parameter("scale").shape == (6, 1, 1)
    assert quantized.weights["back/weight"].get_parameter("scale").shape == (5, 1)
    assert quantized.weights["line/weight"].get_parameter("scale").shape == (4, 1, 1)
    with torch.no_grad():
        exact = model(images)
    error = (quantized(images) - exact).norm() / exact.norm()
    assert error < 0.03
    assert torch.equal(vitq.load(quantized.save(tmp_path / "up"))(images), quantized(images))


def test_their_weights_and_biases_are_learnt(images: torch.Tensor) -> None:
    model = Upsampler()
    run = _run(model, images)
    segment = run.student.segment(run.student.cuts[0], run.student.cuts[-1])
    learnt = learnable(run.student, segment, {"biases": 1e-2, "weights": 1e-2}).tensors
    assert set(learnt) == {name for name, _ in model.named_parameters()}


def test_what_is_not_supported_has_a_row_and_a_warning(images: torch.Tensor) -> None:
    run = _run(Mixing(), images)
    _apply(run, Insert())
    rows = [row for row in scope_rows(run.student) if row.kind == "operation"]
    assert [(row.role, row.sites, row.format) for row in rows] == [("bilinear", 1, "floating point, not supported")]
    (warning,) = [text for name, text in run.events.warnings if name == "unsupported-operation"]
    share = 100 * 512 / (8 * 3 * 16 + 512 + 80)
    assert f"bilinear (1): not supported, so {share:.1f} % of the weights" in warning


class Odd(nn.Module):
    """What multiplies without sites: with weights, with computed ones, or with none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.deep = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10), nn.Conv3d(8, 8, 1)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.deep(self.stem(x).unsqueeze(2)).squeeze(2)
        y = torch.fft.irfft2(torch.fft.rfft2(y)).flatten(2).mT
        y = (
            self.lstm(y)[0]
            + torch.einsum("bnc,bnc,bnd->bnd", y, y, y)
            + nn.functional.linear(y, y.mean((0, 1)).outer(y[0, 0]))
        )
        return self.head(y.mean(1) + torch.cdist(y, y).mean((1, 2))[:, None])


def test_products_of_every_kind_have_a_row(images: torch.Tensor) -> None:
    run = _run(Odd(), images)
    _apply(run, Insert())
    rows = {row.role for row in scope_rows(run.student) if row.kind == "operation"}
    wanted = {"conv3d", "fft_rfft2", "fft_irfft2", "lstm", "einsum", "cdist", "linear of a computed weight"}
    assert wanted <= rows
    (warning,) = [text for name, text in run.events.warnings if name == "unsupported-operation"]
    lstm = 2 * 4 * 8 * 8
    assert f"{100 * (lstm + 64) / (lstm + 64 + 8 * 3 * 16 + 80):.1f} % of the weights" in warning


def test_a_model_without_products_is_refused(images: torch.Tensor) -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)).relu()

    with pytest.raises(ModelError, match="nothing to quantize"):
        vitq.quantize(Nothing(), images, bits="w8a8", recipe="rtn", progress=False)


def test_a_format_without_negative_values_is_refused_where_there_are_some(images: torch.Tensor) -> None:
    model = Upsampler().eval()
    with pytest.raises(RecipeError, match=r"insert\.weight\.format: 'log2' has no negative values"):
        vitq.quantize(
            model, images, bits="w8a8", recipe="rtn", overrides={"insert.weight.format": "log2"}, progress=False
        )
    with pytest.raises(CalibrationError, match="'log_sqrt2' has no negative values"):
        overrides = {"insert.activation.format": "log_sqrt2"}
        vitq.quantize(model, images, bits="w8a8", recipe="rtn", overrides=overrides, progress=False)


def test_a_repeated_parameter_is_no_unsupported_operation() -> None:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.probe, self.fc = nn.Parameter(torch.ones(1, 1, 4)), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.cat((x, self.probe.repeat(x.shape[0], 1, 1).roll(1, 2).flip(2)), 1))

    assert not find_unsupported(capture(Probe(), torch.randn(2, 3, 4)).module.graph)


def test_a_moved_model_makes_its_tensors_where_it_is() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.head(self.stem(x).mean((2, 3)))
            return y + torch.arange(x.shape[0], device=x.device)[:, None]

    images = torch.randn(4, 3, 8, 8)
    quantized = vitq.quantize(Counting().eval(), images, bits="w8a8", recipe="rtn", progress=False)
    graph = quantized.graph.clone()
    graph.to(torch.device("meta"))
    assert graph(images.to("meta")).device.type == "meta"
    named = [a for node in graph.module.graph.nodes for a in (*node.args, *node.kwargs.values())]
    assert {a.type for a in named if isinstance(a, torch.device)} == {"meta"}

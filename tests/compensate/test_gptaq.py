"""Step ``gptaq`` on whole models: codes stay codes, errors fall, what is worse is taken back, a resume is exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.compensate import Gptaq
from vitq.compensate.layers import QuantizedLayer, quantized_layers
from vitq.compensate.rounding import Moments
from vitq.errors import RecipeError
from vitq.graph import Graph, capture
from vitq.quantizers import Granularity
from vitq.run.checkpoints import Checkpoints
from vitq.run.run import Run
from vitq.tasks.distances import relative_square

ALWAYS = Gptaq(images=10, judge=False)


@pytest.fixture(scope="module")
def teachers(tiny: Callable[..., nn.Module]) -> dict[str, Graph]:
    x_NCHW = torch.randn(2, 3, 32, 32)
    return {
        family: capture(tiny(family, **own).eval(), x_NCHW) for family, own in (("vit", {"depth": 1}), ("swin", {}))
    }


def prepared(teacher: Graph, bits: str = "w3a4", **insert: Any) -> Run:
    x_NCHW = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = Run(teacher=teacher, student=teacher.clone(), images_NCHW=x_NCHW, bits=Bits.parse(bits))
    Insert(**insert).apply(run)
    Calibrate(images=4, weights="mse", activations="mse").apply(run)
    return run


def weights(graph: Graph) -> dict[str, torch.Tensor]:
    return {layer.name: layer.weight.clone() for layer in quantized_layers(graph)[0]}


def error(run: Run) -> float:
    with torch.no_grad():
        return float(relative_square(run.student(run.images_NCHW), run.teacher(run.images_NCHW)))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_layer_gets_values_of_its_quantizer_and_the_model_is_nearer(
    teachers: dict[str, Graph], family: str
) -> None:
    run = prepared(teachers[family])
    before = error(run)
    ALWAYS.apply(run)
    layers, refused = quantized_layers(run.student)
    assert not refused
    for layer in layers:
        torch.testing.assert_close(layer.quantizer(layer.weight), layer.weight, rtol=1e-6, atol=1e-6)
    assert error(run) < before


def test_passes_of_descent_bring_two_bits_nearer(teachers: dict[str, Graph]) -> None:
    errors = []
    for passes in (0, 3):
        run = prepared(teachers["vit"], bits="w2a8")
        ALWAYS.model_copy(update={"passes": passes}).apply(run)
        errors.append(error(run))
    assert errors[1] < errors[0]


def test_what_it_did_not_do_before_is_not_written_out() -> None:
    assert Gptaq().model_dump(mode="json").keys() == {"images", "strength", "damping", "held_out", "judge"}
    own = Gptaq(passes=2, by="model")
    assert Gptaq.model_validate(own.model_dump(mode="json")) == own


@pytest.mark.parametrize("weight", [{"granularity": Granularity.group(8)}, {"format": "codebook"}])
def test_groups_and_tables_are_rounded_as_their_quantizer_rounds(
    teachers: dict[str, Graph], weight: dict[str, Any]
) -> None:
    run = prepared(teachers["vit"], weight=weight)
    for layer in quantized_layers(run.student)[0]:
        w_OI = layer.weight.flatten(1)
        columns = [layer.round_column(w_OI[:, i : i + 1], i) for i in (0, 9, w_OI.shape[1] - 1)]
        expected_OI = layer.quantizer(layer.weight).flatten(1)[:, [0, 9, -1]]
        assert torch.equal(torch.cat(columns, 1), expected_OI)


@pytest.mark.parametrize("by", ["segment", "model"])
def test_a_layer_that_is_worse_on_held_out_images_is_taken_back(
    teachers: dict[str, Graph], monkeypatch: pytest.MonkeyPatch, by: Any
) -> None:
    run = prepared(teachers["vit"])
    before = weights(run.student)

    def spoil(self: Gptaq, layer: QuantizedLayer, known: Moments) -> None:
        layer.weight.mul_(-9)
        if layer.bias is not None:
            layer.bias.add_(100 * torch.randn(len(layer.bias), generator=torch.Generator().manual_seed(0)))

    monkeypatch.setattr(Gptaq, "change", spoil)
    Gptaq(images=10, by=by).apply(run)
    after = weights(run.student)
    kept = [name for name in before if torch.equal(before[name], after[name])]
    assert len(kept) == len(before)


def test_a_resumed_run_has_the_same_weights(teachers: dict[str, Graph], tmp_path: Path) -> None:
    runs = [prepared(teachers["vit"]) for _ in range(2)]
    for run in runs:
        run.checkpoints = Checkpoints(tmp_path, {"run": 1}, resume=True)
        ALWAYS.apply(run)
    first, second = (dict(run.student.module.state_dict()) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_before_calibration_and_with_four_images_it_says_what_to_do(teachers: dict[str, Graph]) -> None:
    run = Run(
        teacher=teachers["vit"],
        student=teachers["vit"].clone(),
        images_NCHW=torch.randn(4, 3, 32, 32),
        bits=Bits.parse("w4a4"),
    )
    with pytest.raises(RecipeError, match="behind 'insert' and 'calibrate'"):
        Gptaq().apply(run)
    run = prepared(teachers["vit"])
    run.images_NCHW = run.images_NCHW[:4]
    with pytest.raises(RecipeError, match="at least 5 calibration images"):
        Gptaq().apply(run)

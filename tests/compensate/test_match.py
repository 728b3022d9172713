"""Step ``match_channels``: codes stay, scales and biases bring each channel nearer, what is worse is taken back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.compensate import MatchChannels
from vitq.compensate.layers import quantized_layers
from vitq.errors import RecipeError
from vitq.graph import Graph, capture
from vitq.run.checkpoints import Checkpoints
from vitq.run.run import Run

ALWAYS = MatchChannels(images=10, judge=False)


@pytest.fixture(scope="module")
def teacher(tiny: Callable[..., nn.Module]) -> Graph:
    return capture(tiny("vit", depth=1).eval(), torch.randn(2, 3, 32, 32))


def prepared(teacher: Graph, **insert: Any) -> Run:
    x_NCHW = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = Run(teacher=teacher, student=teacher.clone(), images_NCHW=x_NCHW, bits=Bits.parse("w3a3"))
    Insert(**insert).apply(run)
    Calibrate(images=4, weights="minmax", activations="minmax").apply(run)
    return run


def error(run: Run) -> float:
    with torch.no_grad():
        outputs, like = ({"output": graph(run.images_NCHW)} for graph in (run.student, run.teacher))
    return float(run.task.distance(outputs, like))


def codes(run: Run) -> dict[str, torch.Tensor]:
    return {layer.name: layer.quantizer.encode(layer.weight) for layer in quantized_layers(run.student)[0]}


def test_codes_of_weights_stay_and_the_model_is_nearer(teacher: Graph) -> None:
    run = prepared(teacher)
    before, held = error(run), codes(run)
    ALWAYS.apply(run)
    assert error(run) < before
    for name, found in codes(run).items():
        assert float((found != held[name]).float().mean()) < 1e-3


def test_without_factors_only_biases_change(teacher: Graph) -> None:
    run = prepared(teacher)
    held = {name: tensor.clone() for name, tensor in run.student.module.state_dict().items()}
    ALWAYS.model_copy(update={"factors": False}).apply(run)
    changed = {name for name, tensor in run.student.module.state_dict().items() if not torch.equal(tensor, held[name])}
    assert changed and all(name.endswith("bias") for name in changed)


def test_formats_without_a_scale_for_each_channel_keep_their_weights(teacher: Graph) -> None:
    run = prepared(teacher, weight={"format": "codebook"})
    held = {layer.name: layer.weight.clone() for layer in quantized_layers(run.student)[0]}
    ALWAYS.apply(run)
    assert all(torch.equal(layer.weight, held[layer.name]) for layer in quantized_layers(run.student)[0])


@pytest.mark.parametrize("by", ["segment", "model"])
def test_a_layer_that_is_worse_is_taken_back_whole(teacher: Graph, monkeypatch: pytest.MonkeyPatch, by: Any) -> None:
    run = prepared(teacher)
    held = {name: tensor.clone() for name, tensor in run.student.module.state_dict().items()}

    def spoil(self: MatchChannels, layer: Any, known: Any) -> None:
        layer.weight.mul_(-9)
        layer.bias.add_(100 * torch.randn(len(layer.bias), generator=torch.Generator().manual_seed(0)))
        layer.channel_scale.mul_(2)

    monkeypatch.setattr(MatchChannels, "change", spoil)
    MatchChannels(images=10, by=by).apply(run)
    assert all(torch.equal(tensor, held[name]) for name, tensor in run.student.module.state_dict().items())


def test_a_resumed_run_has_the_same_scales(teacher: Graph, tmp_path: Path) -> None:
    runs = [prepared(teacher) for _ in range(2)]
    for run in runs:
        run.checkpoints = Checkpoints(tmp_path, {"run": 1}, resume=True)
        ALWAYS.apply(run)
    first, second = (dict(run.student.module.state_dict()) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_comes_behind_calibration(teacher: Graph) -> None:
    run = Run(teacher, teacher.clone(), torch.randn(8, 3, 32, 32), Bits.parse("w4a4"))
    with pytest.raises(RecipeError, match="behind 'insert' and 'calibrate'"):
        MatchChannels().apply(run)

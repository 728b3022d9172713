"""The recipes for few bits on a model of one block: every step does its part, and the model stays usable."""

from typing import Any

import pytest
import torch
from torch import nn

from vitq.bits import Bits
from vitq.graph import capture
from vitq.graph.ops import aten, is_op
from vitq.recipes import load_recipe
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run
from vitq.tasks.distances import relative_square

TRAINING: dict[str, Any] = {"reconstruct.steps": 2, "reconstruct.batch": 4}


@pytest.mark.parametrize(
    ("recipe", "budget", "options"),
    [
        ("glf-q", "quick", {**TRAINING, "relu_mlp.steps": 2, "relu_mlp.tokens": 16}),
        ("vitq", "fast", {}),
        ("vitq", "quick", TRAINING),
    ],
)
def test_it_quantizes_a_model(one_block: nn.Module, recipe: str, budget: str, options: dict[str, Any]) -> None:
    x_NCHW = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher = capture(one_block, x_NCHW[:2])
    run = Run(teacher, teacher.clone(), x_NCHW, Bits.parse("w4a4"))
    apply_steps(run, load_recipe(recipe, budget=budget, overrides=options).steps)
    assert all(quantizer.calibrated for quantizer in run.student.quantizers.values())  # type: ignore[attr-defined]
    gelus = [node for node in run.student.module.graph.nodes if is_op(node, {aten.gelu.default})]
    assert len(gelus) == (0 if recipe == "glf-q" else 1)
    with torch.no_grad():
        assert relative_square(run.student(x_NCHW), teacher(x_NCHW)) < 0.5

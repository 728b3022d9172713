"""What a task says of outputs, against formulas written out."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import ModelError
from vitq.graph.outputs import Outputs
from vitq.reconstruct.objective.curvature import mean_fisher
from vitq.reconstruct.objective.gradients import Gradients
from vitq.tasks import TASKS, Classes, Task, Values, name_of, register_task, task_for
from vitq.tasks.task import Shapes


@pytest.mark.parametrize(
    ("shapes", "task"),
    [
        ({"logits": (5,)}, Classes("logits")),
        ({"logits": (1,)}, Classes("logits")),
        ({"logits": (5, 4)}, Values("logits")),
        ({"logits": (5,), "features": (3, 4)}, Classes("logits")),
        ({"features": (4,), "cls_logits": (5,)}, Classes("cls_logits")),
        ({"cls_logits": (5,), "logits": (5,), "distillation_logits": (5,)}, Classes("logits")),
        ({"cls_logits": (5,), "distillation_logits": (5,)}, Values("cls_logits")),
        ({"logits": (10, 92), "pred_boxes": (10, 4)}, Values("logits")),
        ({"last_hidden_state": (9, 4), "pooler_output": (4,)}, Values("pooler_output")),
        ({"output_0": (5,), "output_1": (5,)}, Values("output_0")),
    ],
)
def test_a_task_is_found_by_the_outputs(shapes: Shapes, task: Task) -> None:
    assert task_for(shapes) == task and task_for(shapes, name_of(task)) == task


def test_a_task_that_does_not_fit_or_exist_is_refused() -> None:
    with pytest.raises(ModelError, match=r"task 'classes' does not fit a model that returns maps \(3, 4\)"):
        task_for({"maps": (3, 4)}, "classes")
    with pytest.raises(ModelError, match="task 'clases' does not exist; did you mean 'classes'"):
        task_for({"logits": (3,)}, "clases")


def test_distances_are_summed_over_what_the_reference_holds() -> None:
    torch.manual_seed(0)
    reference = {"logits": torch.randn(6, 4), "maps": torch.randn(6, 2, 3)}
    outputs = {name: y + 0.1 * torch.randn_like(y) for name, y in reference.items()}
    p, q = (y["logits"].softmax(-1) for y in (reference, outputs))
    divergence = (p * (p / q).log()).sum(1).mean()
    square = {n: (outputs[n] - y).square().sum() / y.square().sum() for n, y in reference.items()}

    torch.testing.assert_close(Classes("logits").distance(outputs, reference), divergence + square["maps"])
    torch.testing.assert_close(Values("logits").distance(outputs, reference), square["logits"] + square["maps"])
    part = {"maps": reference["maps"]}
    torch.testing.assert_close(Classes("logits").distance(outputs, part), square["maps"])
    torch.testing.assert_close(Classes("logits").error(outputs, reference), sum(square.values()) / 2)


@pytest.mark.parametrize("kind", [Classes, Values])
def test_the_fisher_of_numbers_is_the_curvature_of_their_relative_error(kind: type[Task]) -> None:
    torch.manual_seed(0)
    suffix, z = nn.Linear(6, 4), torch.randn(2000, 6)
    suffix.weight.data *= torch.tensor([1, 1, 0, 4, 1, 2])
    with torch.no_grad():
        outputs = {"maps": suffix(z)}
    task = kind("logits" if kind is Classes else "maps")

    def forward(z_NC: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"maps": suffix(z_NC)}

    given = Gradients(forward, z, lambda: z, outputs, 1.0, torch.Generator().manual_seed(0), task=task)
    expected_C = suffix.weight.detach().square().sum(0)
    got_C = mean_fisher(given).diagonal_N[0]
    torch.testing.assert_close(got_C, expected_C / expected_C.mean(), rtol=0.1, atol=0.01)


class Compass(nn.Module):
    """An angle and features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = nn.Linear(48, 16), nn.Linear(16, 1)

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.stem(x_BCHW.flatten(1)).relu()
        return {"angle": self.fc(features), "features": features}


def test_a_task_from_outside_trains_scores_and_is_remembered(tmp_path: Path) -> None:
    x_NCHW = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels_N = torch.arange(16)
    options = {"reconstruct.steps": 2, "reconstruct.batch": 4, "reconstruct.compute.precision": "float32"}
    with TASKS.kept():

        @register_task("angles")
        class Angles(Values):
            labels = "its angle in degrees"

            @classmethod
            def fit(cls, shapes: Shapes) -> "Angles | None":  # type: ignore[override]
                return cls("angle") if shapes.get("angle") == (1,) else None

            def score(self, summary: Outputs, labels_N: torch.Tensor) -> dict[str, float]:
                return {"degrees": float((summary["angle"][:, 0].rad2deg() - labels_N).abs().mean())}

        made = vitq.quantize(
            Compass(), x_NCHW, recipe="mgrq", bits="w8a8", limit=16, progress=False, validation=(x_NCHW, labels_N),
            overrides={**options, "reconstruct.objective.global_on": "logits"}, out=tmp_path / "run",
        )  # fmt: skip
        assert made.config.task == "angles" and made.metrics.scores is not None and made.metrics.fp_scores is not None
        assert made.metrics.scores["degrees"] == pytest.approx(made.metrics.fp_scores["degrees"], rel=0.1)
        assert "degrees" in (tmp_path / "run" / "report.html").read_text()
        again = vitq.load(tmp_path / "run")
        assert again.evaluate((x_NCHW, labels_N)).scores == made.metrics.scores
    with pytest.raises(ModelError, match="task 'angles' does not exist"):
        again.evaluate((x_NCHW, labels_N))


def test_the_choice_of_vitq_is_not_written() -> None:
    made = vitq.quantize(Compass(), torch.randn(8, 3, 4, 4), recipe="rtn", bits="w8a8", limit=8, progress=False)
    assert made.config.task is None and "task" not in made.config.model_dump()

"""What a task says of outputs, against formulas written out."""

import pytest
import torch
from torch import nn

from vitq.errors import ModelError
from vitq.reconstruct.objective.curvature import mean_fisher
from vitq.reconstruct.objective.gradients import Gradients
from vitq.tasks import Classes, Task, Values, name_of, task_for
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

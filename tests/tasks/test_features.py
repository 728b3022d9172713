"""Features that tell classes apart, by neighbours and by a linear probe; and models that are certainly of features."""

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import DataError
from vitq.models import LoadedModel, Preprocessing, settle
from vitq.tasks import Features
from vitq.tasks.probes import neighbours_accuracy, pooled, probe_accuracy


def clusters(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.randn(3, 8, generator=draws)
    return centres[labels] + spread * torch.randn(60, 8, generator=draws), labels


def test_neighbours_vote_by_their_cosine_and_leave_the_image_out() -> None:
    x, labels = clusters(1.5)
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    hits = 0
    for i in range(60):
        cosine = unit @ unit[i]
        nearest = sorted((j for j in range(60) if j != i), key=lambda j: -cosine[j])[:20]
        votes = [sum(float((cosine[j] / 0.07).exp()) for j in nearest if labels[j] == c) for c in range(3)]
        hits += max(range(3), key=votes.__getitem__) == int(labels[i])
    assert neighbours_accuracy(x, labels) == pytest.approx(100 * hits / 60) and 40 < 100 * hits / 60 < 100


def test_a_linear_probe_is_ridge_regression_on_the_other_half() -> None:
    x, labels = clusters(1.5)
    hits = 0
    halves = (torch.arange(60) // 3) % 2  # every second image of a class
    for fold in (0, 1):
        fit, test = x[halves != fold].double(), x[halves == fold].double()
        mean, deviation = fit.mean(0), fit.std(0, correction=0)
        a, y = (fit - mean) / deviation, torch.eye(3).double()[labels[halves != fold]]
        weight = torch.linalg.inv(a.T @ a + len(a) * torch.eye(8).double()) @ a.T @ (y - y.mean(0))
        hits += int(((((test - mean) / deviation) @ weight + y.mean(0)).argmax(1) == labels[halves == fold]).sum())
    assert probe_accuracy(x, labels) == pytest.approx(100 * hits / 60) and hits < 60
    assert probe_accuracy(*clusters(0.1)) == 100.0


def test_tokens_and_maps_are_averaged_over_their_places() -> None:
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(pooled(x), x.mean((2, 3)))
    torch.testing.assert_close(pooled(x.permute(0, 2, 3, 1)), x.mean((2, 3)))
    torch.testing.assert_close(pooled(x.flatten(2).mT), x.mean((2, 3)))


class Headless(nn.Module):
    """What timm says of a model without a head."""

    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = nn.Linear(48, 16), nn.Linear(16, 6)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.fc(self.stem(x_BCHW.flatten(1)).relu())
        return features


def test_a_model_without_a_head_is_of_features_and_scored_by_class_folders() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    x_NCHW = 0.2 * torch.randn(24, 3, 4, 4, generator=draws) + torch.randn(3, 3, 4, 4, generator=draws)[labels]
    made = vitq.quantize(Headless(), x_NCHW, recipe="rtn", bits="w8a8", limit=24, progress=False,
                         validation=(x_NCHW, labels))  # fmt: skip
    assert made.config.task == "features" and made.config.source["num_classes"] is None
    assert made.metrics.top1 is None and made.metrics.cosine is not None and made.metrics.cosine > 0.99
    assert made.metrics.scores is not None and made.metrics.scores["knn"] > 80 and made.metrics.scores["linear"] > 80
    with pytest.raises(DataError, match="cannot be told apart"):
        made.evaluate((x_NCHW, torch.zeros(24)))
    with pytest.raises(DataError, match="image 1: label 6, but the model has only 6 classes"):
        vitq.evaluate(Headless(), (x_NCHW, labels + 5), task="classes", progress=False)


@pytest.mark.parametrize(
    ("returned", "task"),
    [
        (lambda x: {"last_hidden_state": x.flatten(2), "pooler_output": x.mean((2, 3))}, "features"),
        (lambda x: {"last_hidden_state": x.flatten(2)}, "features"),
        (lambda x: {"feature_maps": (x, x.mean((2, 3), keepdim=True))}, "features"),
        (lambda x: {"predicted_depth": x[:, 0]}, "dense"),
        (lambda x: {"out": x, "aux": x}, "dense"),
        (lambda x: {"logits": x}, "dense"),
        (lambda x: x, None),
        (lambda x: x.mean((2, 3)), None),
        (lambda x: {"logits": x.mean((2, 3)), "last_hidden_state": x.flatten(2)}, None),
        (lambda x: {"logits": x.flatten(2), "pred_boxes": x.flatten(2)[..., :4]}, None),
    ],
)
def test_a_task_is_found_where_it_is_certain(returned: object, task: str | None) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return returned(x)  # type: ignore[operator]

    loaded = LoadedModel(Model(), Preprocessing((3, 4, 4), assumed=True), "Model", {})
    settled = settle(loaded, torch.randn(2, 3, 4, 4), lambda *_: None)
    assert settled.task == task and settled.meaning.startswith(f"task {task or ''}")
    again = settle(settled, torch.randn(2, 3, 4, 4), lambda *_: None)
    assert again.task == task


def test_a_class_of_tasks_is_taken_by_its_name() -> None:
    x_NCHW = torch.randn(8, 3, 4, 4)
    metrics = vitq.evaluate(Headless(), (x_NCHW, torch.arange(8) % 2), task=Features, progress=False)
    assert metrics.scores is not None and set(metrics.scores) == {"knn", "linear"}

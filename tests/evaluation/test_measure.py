"""Scores of models whose outputs are classes, one value, or something else."""

from collections.abc import Callable

import pytest
import torch

from vitq.errors import DataError, ModelError
from vitq.evaluation import Metrics, measure

CPU = torch.device("cpu")
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
SIGNS = (X[:, 0] > 0).long()


def _batches(labels: torch.Tensor | None = None) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    parts = [None] * 5 if labels is None else labels.split(8)
    return list(zip(X.split(8), parts, strict=True))


@pytest.mark.parametrize("keep", [True, False])
def test_one_logit_is_scored_by_its_sign_in_either_shape(keep: bool) -> None:
    metrics, summary = measure(lambda x: x[:, :1] if keep else x[:, 0], _batches(SIGNS), CPU)

    assert metrics == Metrics(40, top1=100.0) and summary.outputs["logits"].shape == (40, 1)
    wrong, _ = measure(lambda x: x[:, :1], _batches(1 - SIGNS), CPU)
    assert wrong.top1 == 0.0 and wrong.top5 is None


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_outputs_that_are_no_classes_are_compared_by_error_and_cosine(shape: tuple[int, ...]) -> None:
    def outputs(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 2, 3) if shape == (2, 3) else x[:, :1].reshape(-1, *shape)

    _, reference = measure(outputs, _batches(), CPU)

    doubled, _ = measure(lambda x: 2.04 * outputs(x), _batches(), CPU, reference)
    turned, _ = measure(lambda x: -outputs(x), _batches(), CPU, reference)
    assert doubled.relative_error == pytest.approx(1.04) and doubled.cosine == pytest.approx(1)
    assert turned.relative_error == pytest.approx(2) and turned.cosine == pytest.approx(-1)
    assert doubled.agreement is None and doubled.top1 is None


def test_classes_are_scored_as_before() -> None:
    labels = X.argmax(1)
    _, reference = measure(lambda x: x, _batches(), CPU)
    metrics, summary = measure(lambda x: x, _batches(labels), CPU, reference)

    assert metrics == Metrics(40, 100.0, 100.0, 100.0) and torch.equal(summary.outputs["logits"][:, 0], labels)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused_or_count_as_wrong(bad: float) -> None:
    def outputs(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] > 0, x, bad)

    for forward in (outputs, lambda x: outputs(x)[:, :1]):
        with pytest.raises(ModelError, match=rf"NaN or infinity for {40 - int(SIGNS.sum())} of 40 images"):
            measure(forward, _batches(), CPU)
        told: list[str] = []
        labels = X.argmax(1) if forward is outputs else SIGNS
        metrics, _ = measure(forward, _batches(labels), CPU, broken=told.append)
        assert len(told) == 1 and metrics.top1 == pytest.approx(100 * float(SIGNS.double().mean()))


def test_lost_outputs_agree_with_nothing() -> None:
    metrics, lost = measure(lambda x: x * float("nan"), _batches(), CPU, broken=lambda _: None)

    again, _ = measure(lambda x: x * float("nan"), _batches(), CPU, lost, broken=lambda _: None)
    assert again.agreement == 0.0 and metrics.agreement is None


@pytest.mark.parametrize("forward", [lambda x: x.sum(), lambda x: x[:1], lambda x: x.T])
def test_outputs_that_are_not_one_a_sample_are_refused(forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="output for 8 images has the shape"):
        measure(forward, _batches(), CPU)


@pytest.mark.parametrize(("width", "classes"), [(1, 2), (3, 3)])
def test_a_label_beyond_the_outputs_is_refused(width: int, classes: int) -> None:
    with pytest.raises(DataError, match=f"label 3, but the model has only {classes} classes"):
        measure(lambda x: x[:, :width], _batches(torch.full((40,), 3)), CPU)


def test_several_outputs_are_compared_one_by_one() -> None:
    def outputs(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x, "maps": x.reshape(-1, 2, 3), "more": x[:, :2]}

    def shifted(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x, "maps": 1.5 * x.reshape(-1, 2, 3), "more": -x[:, :2]}

    _, reference = measure(outputs, _batches(), CPU)
    metrics, _ = measure(shifted, _batches(X.argmax(1)), CPU, reference)

    assert (metrics.top1, metrics.agreement, metrics.relative_error) == (100.0, 100.0, None)
    assert metrics.outputs is not None and list(metrics.outputs) == ["maps", "more"]
    assert metrics.outputs["maps"]["relative_error"] == pytest.approx(0.5)
    assert metrics.outputs["more"]["cosine"] == pytest.approx(-1)


def test_of_several_outputs_without_classes_the_worst_stands_for_all() -> None:
    def outputs(x: torch.Tensor, by: float = 1.0) -> dict[str, torch.Tensor]:
        return {"boxes": x.reshape(-1, 2, 3), "scores": by * x}

    _, reference = measure(outputs, _batches(), CPU)
    metrics, _ = measure(lambda x: outputs(x, 1.25), _batches(X.argmax(1)), CPU, reference)

    assert metrics.top1 is None and metrics.relative_error == pytest.approx(0.25)
    assert metrics.outputs is not None and metrics.outputs["boxes"]["relative_error"] == 0

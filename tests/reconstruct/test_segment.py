from collections.abc import Callable

import pytest
import torch

from vitq.reconstruct.objective.distances import image_moments, pooled_moments
from vitq.reconstruct.segment import prepare
from vitq.run.run import Run


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_goal_and_layers_are_computed_for_the_first_images_alone(make_run: Callable[..., Run], model: str) -> None:
    run = make_run(model)
    span = run.student.spans("block")[1]
    segment = prepare(run.student, run.teacher, span, run.teacher.feature, {}, local=True)
    x = run.teacher.segment(run.teacher.cuts[0], span.start)(run.images_NCHW[:8])
    target = run.teacher.segment(span.start, span.end)(x)
    goal = run.teacher.segment(span.end, run.teacher.feature)(target)

    whole = segment.batch(x, target, goal, segment.teacher_layers(x), 8)
    part = segment.batch(x, target, goal[:3], segment.teacher_layers(x[:2]), 2)

    assert whole.goal is not None and part.goal is not None
    assert len(part.output) == 8 and len(part.goal) == 3
    torch.testing.assert_close(part.goal, whole.goal[:3])
    assert len(part.taps) == len(part.target_taps) == len(whole.taps) > 1
    for taps, everything in ((part.taps, whole.taps), (part.target_taps, whole.target_taps)):
        for tap, full in zip(taps, everything, strict=True):
            assert len(tap) == len(full) * 2 // 8
            torch.testing.assert_close(tap, full[: len(tap)])


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_layers_summarized_once_for_all_images_are_those_of_a_batch(make_run: Callable[..., Run], model: str) -> None:
    run = make_run(model)
    span = run.student.spans("block")[1]
    segment = prepare(run.student, run.teacher, span, run.teacher.feature, {}, local=True)
    x = run.teacher.segment(run.teacher.cuts[0], span.start)(run.images_NCHW)
    chosen = torch.tensor([5, 0, 3])

    target, _, summaries = segment.targets(x, image_moments, run.device)

    torch.testing.assert_close(target, run.teacher.segment(span.start, span.end)(x))
    layers = segment.teacher_layers(x[chosen])
    assert summaries is not None and len(summaries) == len(layers) > 1
    for layer, summary in zip(layers, summaries, strict=True):
        mean, std = pooled_moments(summary[chosen])
        everything = layer.reshape(-1, layer.shape[-1])
        torch.testing.assert_close(mean, everything.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std, everything.std(0, correction=0), rtol=1e-3, atol=1e-4)


def test_layers_without_a_summary_are_not_kept(make_run: Callable[..., Run]) -> None:
    run = make_run("vit")
    segment = prepare(run.student, run.teacher, run.student.spans("block")[0], run.teacher.feature, {}, local=True)
    assert segment.targets(run.images_NCHW, None, run.device)[2] is None

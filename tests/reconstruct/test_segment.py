from collections.abc import Callable

import pytest
import torch

from vitq.reconstruct.segment import prepare
from vitq.run import Run


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_goal_and_layers_are_computed_for_the_first_images_alone(make_run: Callable[..., Run], model: str) -> None:
    run = make_run(model)
    span = run.student.spans("block")[1]
    segment = prepare(run.student, run.teacher, span, run.teacher.feature, {}, local=True)
    x = run.teacher.segment(run.teacher.cuts[0], span.start)(run.images_NCHW[:8])
    target = run.teacher.segment(span.start, span.end)(x)
    goal = run.teacher.segment(span.end, run.teacher.feature)(target)

    whole = segment.batch(x, x, target, goal, 8)
    part = segment.batch(x, x, target, goal[:3], 2)

    assert whole.goal is not None and part.goal is not None
    assert len(part.output) == 8 and len(part.goal) == 3
    torch.testing.assert_close(part.goal, whole.goal[:3])
    assert len(part.taps) == len(part.target_taps) == len(whole.taps) > 1
    for taps, everything in ((part.taps, whole.taps), (part.target_taps, whole.target_taps)):
        for tap, full in zip(taps, everything, strict=True):
            assert len(tap) == len(full) * 2 // 8
            torch.testing.assert_close(tap, full[: len(tap)])

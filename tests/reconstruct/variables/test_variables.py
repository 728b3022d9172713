"""What Adam sees: units of each channel's own, and scales that cannot reach zero."""

from collections.abc import Callable

import torch

from vitq.reconstruct.segment import prepare
from vitq.reconstruct.variables.learnable import LEAST_SCALE
from vitq.run.run import Run

MakeRun = Callable[..., Run]


def test_scales_stay_positive_however_large_the_rate(make_run: MakeRun) -> None:
    run = make_run()
    span = run.student.spans("block")[1]
    rates = {"weights": 0.1, "weight_scales": 5.0, "activation_scales": 5.0}
    segment = prepare(run.student, run.teacher, span, run.teacher.feature, rates, local=False)
    scales = {path: t for path, t in segment.variables.tensors.items() if path.endswith("scale")}
    initial = {path: scale.detach().clone() for path, scale in scales.items()}
    optimizer = torch.optim.Adam(segment.variables.groups)
    x = run.teacher.segment(run.teacher.cuts[0], span.start)(run.images_NCHW[:4])
    for _ in range(5):
        segment.student(x).square().sum().backward()
        segment.variables.step(optimizer)
    assert scales
    for path, scale in scales.items():
        assert bool((scale >= 0.999 * LEAST_SCALE * initial[path]).all()), path
        assert scale.grad is None


def test_a_step_moves_each_weight_by_its_channels_own_unit(make_run: MakeRun) -> None:
    run = make_run()
    span = run.student.spans("block")[1]
    segment = prepare(run.student, run.teacher, span, run.teacher.feature, {"weights": 0.1}, local=False)
    path, weight = next((p, t) for p, t in segment.variables.tensors.items() if t.ndim == 2)
    unit = next(v.unit for v in segment.variables.scaled if v.tensor is weight)
    before = weight.detach().clone()
    assert unit.shape == (len(weight), 1) and float(unit.max() / unit.min()) > 1.01, path
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    segment.variables.step(torch.optim.Adam(segment.variables.groups))
    torch.testing.assert_close(
        (weight.detach() - before).abs() / unit, torch.full_like(weight, 0.1), rtol=1e-2, atol=1e-3
    )

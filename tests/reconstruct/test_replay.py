"""A replayed step does what the step itself does; on a CPU nothing is recorded."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from vitq.quantizers import DropMask
from vitq.reconstruct import Reconstruct, replay
from vitq.run.run import Run

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
TERMS = {"global": 1.0, "local": 0.1}
MGRQ = {"batch": 16, "evaluation": {"held_out": 16}, "objective": TERMS, "steps": 24}


@dataclass
class Counter:
    total: torch.Tensor
    generator: torch.Generator
    calls: int = 0

    def step(self) -> torch.Tensor:
        self.calls += 1
        self.total += torch.rand((), generator=self.generator, device=self.total.device)
        return self.total.clone()


def test_a_cpu_runs_every_step() -> None:
    counter = Counter(torch.zeros(()), torch.Generator().manual_seed(0))
    step = replay.Replay(counter.step, torch.device("cpu"), [counter.generator])
    totals = [float(step()) for _ in range(6)]
    assert counter.calls == 6
    assert totals == sorted(totals) and totals[0] > 0


@on_gpu
def test_a_gpu_replays_with_fresh_random_numbers() -> None:
    device = torch.device("cuda")
    counter = Counter(torch.zeros((), device=device), torch.Generator(device).manual_seed(0))
    step = replay.Replay(counter.step, device, [counter.generator])
    totals = [float(step()) for _ in range(8)]
    assert counter.calls == replay.WARM_UP + 1
    assert len({round(b - a, 6) for a, b in itertools.pairwise(totals)}) == 7
    step.again()
    step()
    assert counter.calls == replay.WARM_UP + 2


@on_gpu
def test_masks_are_drawn_on_the_gpu() -> None:
    device = torch.device("cuda")
    drop = DropMask(0.25, generator=torch.Generator(device).manual_seed(0))
    x = torch.empty(64, 8, 5, 16, device=device).transpose(1, 2)
    mask = drop(x)
    assert mask.device == x.device and mask.stride() == x.stride()
    assert abs(float((~mask).float().mean()) - 0.25) < 0.02
    assert not torch.equal(mask, drop(x))


@on_gpu
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise": {"drop_activations": 0.0, "mix_inputs": 0.0}, "evaluation": {"held_out": 16, "average": 0.9}},
        {"learn": {"rounding": 1e-2, "activation_scales": 1e-3}},
        {"objective": {**TERMS, "curvature": "low_rank", "low_rank": 1.0, "curvature_refreshes": 3}},
        {"objective": {**TERMS, "curvature": "fisher", "global_on": "outputs"}},
    ],
    ids=str,
)
def test_replayed_training_is_the_training(
    make_run: Callable[..., Run], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits with and without recordings; without dropping also about what a CPU gets."""
    results = []
    for warm_up in (replay.WARM_UP, 10**6):
        monkeypatch.setattr(replay, "WARM_UP", warm_up)
        run = on_device(make_run())
        Reconstruct.model_validate({**MGRQ, **options}).apply(run)
        results.append({k: v.cpu() for k, v in run.student.module.state_dict().items()})
    recorded, plain = results
    assert all(torch.allclose(recorded[k], plain[k], rtol=1e-4, atol=1e-5) for k in plain)


def on_device(run: Run) -> Run:
    run.device = torch.device("cuda")
    run.student.to(run.device)
    run.teacher = run.teacher.clone()
    run.teacher.to(run.device)
    return run

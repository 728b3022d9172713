"""PFCR as a whole: its degenerate case, the transfer between its stages, and resuming anywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitq.bits import Bits
from vitq.graph import Graph
from vitq.quantizers import Granularity, Quantizer
from vitq.recipes import load_recipe
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.slicing.schedule import plan
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run
from vitq.run.step import Step

LEVELS = ["unit", "block", "2"]
SHORT: dict[str, Any] = {
    "smooth": "remove",
    "calibrate": {"images": 8, "weights": "mse", "activations": "mse"},
    "reconstruct": {"steps": 2, "batch": 8, "evaluation": {"held_out": 8}, "compute": {"precision": "float32"}},
}


def pfcr(**overrides: Any) -> tuple[Step, ...]:
    """The recipe, short; ``overrides`` are options of both stages of reconstruction."""
    return load_recipe("pfcr", overrides={**SHORT, "reconstruct": {**SHORT["reconstruct"], **overrides}}).steps


def new_run(teacher: Graph, checkpoints: Path | None = None, resume: bool = False) -> Run:
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    events = Events(console=False)
    return Run(
        teacher,
        teacher.clone(),
        images,
        Bits.parse("w3a3"),
        events=events,
        checkpoints=Checkpoints(checkpoints, {}, resume),
    )


def result(run: Run, steps: tuple[Step, ...]) -> dict[str, torch.Tensor]:
    apply_steps(run, steps)
    return {path: tensor.clone() for path, tensor in run.student.module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[path], right[path]) for path in left)


def test_pfcr_with_units_only_is_unit_wise_reconstruction(teachers: dict[str, Graph]) -> None:
    teacher = teachers["vit"]
    progressive = result(new_run(teacher), pfcr(schedule=["unit"]))
    unit_wise = result(new_run(teacher), pfcr(schedule=["unit"], order="level"))
    assert same(progressive, unit_wise)
    assert not same(progressive, result(new_run(teacher), pfcr(schedule=["unit", "block"])))


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_every_level_of_pfcr_takes_as_many_steps_in_total(teachers: dict[str, Graph], model: str) -> None:
    first = next(step for step in pfcr(schedule=LEVELS, steps=30) if isinstance(step, Reconstruct))
    pieces = plan(teachers[model], first.schedule, first.order)
    steps = first.steps_of(teachers[model], pieces)
    blocks = len(teachers[model].spans("block"))
    assert steps["unit"] < steps["block"] < steps["2"]
    for level in LEVELS:
        count = sum(piece.level == level for piece in pieces)
        assert abs(steps[level] * count - 30 * blocks) <= count / 2


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_the_transfer_between_the_stages_of_pfcr_loses_nothing(teachers: dict[str, Graph], model: str) -> None:
    run, steps = new_run(teachers[model]), pfcr(schedule=["unit"])
    names = [step.step_name for step in steps]
    apply_steps(run, steps[: names.index("transfer_scales")])

    def per_channel() -> list[str]:
        found = run.student.quantizers.items()
        return [n for n, q in found if isinstance(q, Quantizer) and q.format.granularity == Granularity.CHANNEL]

    assert len(per_channel()) >= 4, "post-norm quantizers are per channel in the first stage"
    body = run.student.cuts[0], run.student.spans("unit")[-1].start  # the head's input is a cut, so it is not rewritten
    before = run.student.segment(*body)(run.images_NCHW)
    apply_steps(run, steps[names.index("transfer_scales") : names.index("transfer_scales") + 1])
    after = run.student.segment(*body)(run.images_NCHW)
    assert not per_channel()
    skipped = [warned.message for warned in run.events.warnings if warned.name == "transfer-skipped"]
    assert all("'head" in message for message in skipped), "every other site was transferred"
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(("order", "levels"), [("level", LEVELS), ("fine_to_coarse", ["unit", "block"])])
def test_a_run_killed_inside_any_level_of_any_stage_resumes_to_the_same_bits(
    teachers: dict[str, Graph],
    kill_after: Callable[[Run, int], list[str]],
    tmp_path: Path,
    order: str,
    levels: list[str],
) -> None:
    steps = pfcr(schedule=levels, order=order)
    whole = new_run(teachers["vit"], tmp_path / "whole")
    keys = kill_after(whole, -1)  # never: gives the keys alone
    expected = result(whole, steps)
    inside: dict[tuple[str, str], int] = {}
    for place, key in enumerate(keys):
        if "reconstruct" in key:
            inside.setdefault((key[:2], key.rpartition("-")[2]), place)
    assert len(inside) == 2 * len(levels)
    done = 0
    for (stage, level), place in sorted(inside.items(), key=lambda item: item[1]):  # one run, killed in each
        assert any(key[:2] == stage and key.endswith(f"-{level}") for key in keys[place + 1 :]), (
            "inside, not at its end"
        )
        killed = new_run(teachers["vit"], tmp_path / "killed", resume=done > 0)
        again = kill_after(killed, place + 1 - done)
        with pytest.raises(KeyboardInterrupt):
            apply_steps(killed, steps)
        assert again == keys[done : place + 1], "what was finished is read back"
        done = place + 1
    resumed = new_run(teachers["vit"], tmp_path / "killed", resume=True)
    again = kill_after(resumed, -1)
    assert same(expected, result(resumed, steps))
    assert again == keys[done:], "what was finished is read back"

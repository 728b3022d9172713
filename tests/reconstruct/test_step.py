from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitq.errors import RecipeError, ResumeError
from vitq.graph import Graph
from vitq.quantizers import Quantizer
from vitq.recipes import load_recipe
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.groups import Compute
from vitq.reconstruct.loop import Loop
from vitq.reconstruct.objective.fusion import Fusion
from vitq.run.run import Run
from vitq.tasks import Task
from vitq.tasks.dense import Dense
from vitq.tasks.values import Values

QUICK = {"steps": 12, "batch": 16, "evaluation": {"held_out": 16}, "compute": {"precision": "float32"}}
TRIALS = {"among": ["unit", "block"], "outlier_quantiles": [], "steps": 2, "images": 24, "held_out": 8}
MGRQ = {**QUICK, "objective": {"global": 1.0, "local": 0.1}}


def state(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.student.module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def feature_error(run: Run) -> float:
    with torch.no_grad():
        return float((run.student(run.images_NCHW) - run.teacher(run.images_NCHW)).square().mean())


@pytest.mark.parametrize(
    ("model", "schedule"),
    [*(("vit", one) for one in ("layer", "unit", "block", "2", "network")), ("swin", "unit"), ("swin", "stage")],
)
def test_every_schedule_lowers_the_error_of_the_logits(make_run: Callable[..., Run], model: str, schedule: str) -> None:
    run = make_run(model)
    before, teacher = feature_error(run), {k: v.clone() for k, v in run.teacher.module.state_dict().items()}
    Reconstruct.model_validate({**QUICK, "schedule": [schedule]}).apply(run)
    assert feature_error(run) < before
    assert same(teacher, run.teacher.module.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"learn": {"rounding": 1e-2, "activation_scales": 1e-3}, "steps": 40},
        {"objective": {"global": 1.0, "global_on": "outputs"}},
        {"objective": {"global": 1.0, "local": 0.1, "local_by": "moments"}},
        {"objective": {"local": 0.1, "local_by": "kl"}},
        {"objective": {"local": 0.1, "local_by": "mse", "block": 0.5}},
        {
            "learn": {
                "weights": 0.02,
                "weight_scales": 1e-3,
                "zero_points": 0.01,
                "biases": 1e-3,
                "norms": 1e-3,
            }
        },
        {
            "noise": {"drop_activations": 0.0, "mix_inputs": 0.0},
            "compute": {"precision": "float32", "cache": "bfloat16"},
        },
        {"compute": {"precision": "bfloat16"}},
    ],
    ids=str,
)
def test_every_option_trains(make_run: Callable[..., Run], options: dict[str, object]) -> None:
    run = make_run()
    before = feature_error(run)
    Reconstruct.model_validate({**QUICK, **options}).apply(run)
    assert feature_error(run) < before


def test_the_moving_average_is_of_what_was_learnt_alone(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, average = Loop.step, Loop.average
    seen: list[list[torch.Tensor]] = []
    compared: list[int] = []

    def recorded_step(loop: Loop) -> torch.Tensor:
        loss = step(loop)
        seen.append([p.detach().clone() for p in loop.parameters])
        return loss

    def compared_average(loop: Loop) -> list[torch.Tensor] | None:
        got = average(loop)
        assert got is not None and len(seen) == 3
        for result, first, second, third in zip(got, *seen, strict=True):
            torch.testing.assert_close(result, (0.81 * first + 0.9 * second + third) / 2.71)
        compared.append(len(got))
        seen.clear()
        return got

    monkeypatch.setattr(Loop, "step", recorded_step)
    monkeypatch.setattr(Loop, "average", compared_average)
    Reconstruct.model_validate({**QUICK, "steps": 3, "evaluation": {"held_out": 16, "average": 0.9}}).apply(make_run())
    assert len(compared) > 2


@pytest.mark.parametrize("worse", ["average", "last"])
def test_the_better_of_average_and_last_values_is_kept(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, worse: str
) -> None:
    """Each is spoilt in turn; the segment must end with the other."""
    average, kept = Loop.average, []

    def spoilt_average(loop: Loop) -> list[torch.Tensor] | None:
        got = average(loop)
        assert got is not None
        kept.append([p.detach().clone() for p in loop.parameters] if worse == "average" else got)
        for tensor in got if worse == "average" else loop.parameters:
            tensor.data.mul_(3)
        return [tensor.clone() for tensor in got]

    run = make_run()
    monkeypatch.setattr(Loop, "average", spoilt_average)
    averaged = {**QUICK, "evaluation": {"held_out": 16, "average": 0.5}}
    Reconstruct.model_validate({**averaged, "learn": {"biases": 1e-3}, "schedule": ["network"]}).apply(run)
    ((*expected,),) = kept
    values = list(state(run).values())
    assert expected and all(any(torch.equal(tensor, value) for value in values) for tensor in expected)


def test_a_stage_over_the_whole_network_sees_feature_and_logits(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    (step,) = (s for s in load_recipe("qft").steps if isinstance(s, Reconstruct))
    fusions: list[Fusion] = []
    fuse = Fusion.__call__
    monkeypatch.setattr(Fusion, "__call__", lambda self, batch: (fusions.append(self), fuse(self, batch))[1])
    run = make_run()
    before = feature_error(run)
    step.model_copy(update={"steps": 30, "compute": Compute(precision="float32")}).apply(run)
    assert feature_error(run) < before
    assert len(set(map(id, fusions))) == 1
    assert set(fusions[0].first) == {"block", "global"}


LEVELS = {"order": "fine_to_coarse", "schedule": ["unit", "block"], "equal_total_steps": True}


@pytest.mark.parametrize(
    ("path", "objective"),
    [
        (LEVELS, {"global": 0.1, "local": 0.02}),
        (LEVELS, {"curvature": "perturbed"}),
        ({"choose": TRIALS}, {"global": 0.1, "local": 0.02}),
        ({"choose": TRIALS}, {"curvature": "mean_fisher"}),
    ],
)
def test_levels_and_chosen_slicings_take_any_objective(
    make_run: Callable[..., Run], path: dict[str, object], objective: dict[str, object]
) -> None:
    run = make_run()
    before = feature_error(run)
    Reconstruct.model_validate({**QUICK, **path, "objective": objective, "steps": 6}).apply(run)
    assert feature_error(run) < before


def test_rounding_is_decided_once() -> None:
    with pytest.raises(ValueError, match="decided once"):
        Reconstruct.model_validate({"schedule": ["unit", "block"], "learn": {"rounding": 0.01}})


def test_three_images_are_enough(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.images_NCHW = run.images_NCHW[:3]
    before = feature_error(run)
    Reconstruct.model_validate({"steps": 20, "batch": 8, "compute": {"precision": "float32"}}).apply(run)
    assert feature_error(run) < before


def test_leaves_nothing_trainable_and_no_dropping_behind(make_run: Callable[..., Run]) -> None:
    run = make_run()
    Reconstruct.model_validate(MGRQ).apply(run)
    assert not any(p.requires_grad for p in run.student.module.parameters())
    quantizers = [q for q in run.student.module.modules() if isinstance(q, Quantizer)]
    assert len(quantizers) == len(run.student.quantizers)
    assert all(q.drop is None for q in quantizers)


def test_same_seed_same_result_other_seed_other_result(make_run: Callable[..., Run]) -> None:
    first, second, other = make_run(), make_run(), make_run()
    other.seed = 1
    for run in (first, second, other):
        Reconstruct.model_validate(QUICK).apply(run)
    assert same(state(first), state(second))
    assert not same(state(first), state(other))


def test_biases_that_capture_joined_are_learnt(make_run: Callable[..., Run]) -> None:
    run = make_run("beit")
    before = state(run)
    plain = {"noise": {"drop_activations": 0, "mix_inputs": 0}, "learn": {"biases": 1e-3}}
    kept = {"evaluation": {"held_out": 0}}  # on so few images biases alone may be rolled back
    Reconstruct.model_validate({**QUICK, **plain, **kept}).apply(run)
    joined = [name for name in before if "folded" in name]
    assert any(not torch.equal(before[name], state(run)[name]) for name in joined)


@pytest.mark.parametrize(("segments", "cache"), [(1, "bfloat16"), (3, "float32")])
def test_a_killed_run_resumes_to_the_same_bits(
    make_run: Callable[..., Run], kill_after: Callable[..., list[str]], tmp_path: Path, segments: int, cache: str
) -> None:
    compute = {"precision": "float32", "cache": cache}
    step = Reconstruct.model_validate({**MGRQ, "schedule": ["unit", "block"], "steps": 4, "compute": compute})
    whole = make_run()
    step.apply(whole)

    killed = make_run(checkpoints=tmp_path / "run")
    kill_after(killed, segments)
    with pytest.raises(KeyboardInterrupt):
        step.apply(killed)

    with pytest.raises(ResumeError, match="--resume"):
        make_run(checkpoints=tmp_path / "run")
    resumed = make_run(checkpoints=tmp_path / "run", resume=True)
    step.apply(resumed)
    assert same(state(whole), state(resumed))
    assert whole.events.warnings == resumed.events.warnings


def test_a_segment_without_a_term_stays_and_is_named(make_run: Callable[..., Run]) -> None:
    run = make_run()
    before = state(run)
    only_local = {**QUICK, "steps": 3, "schedule": ["layer"], "objective": {"block": 0, "local": 1.0}}
    Reconstruct.model_validate(only_local).apply(run)
    assert same(before, state(run))
    assert {w.name for w in run.events.warnings} == {"no-term"}


def test_global_supervision_alone_leaves_the_head(make_run: Callable[..., Run]) -> None:
    run = make_run()
    error = feature_error(run)
    Reconstruct.model_validate({**QUICK, "objective": {"block": 0, "global": 1.0}}).apply(run)
    assert feature_error(run) < error
    (named,) = (w.message for w in run.events.warnings if w.name == "no-term")
    assert "'head'" in named


def test_rolls_back_what_gets_worse(make_run: Callable[..., Run]) -> None:
    run = make_run()
    before = state(run)
    Reconstruct.model_validate({**QUICK, "learn": {"weights": 1000.0, "activation_scales": 10.0}}).apply(run)
    assert same(before, state(run))
    assert {w.name for w in run.events.warnings} >= {"rolled-back"}


def test_the_first_images_take_part_where_so_many_are_asked_for(make_run: Callable[..., Run]) -> None:
    few, cut = make_run("vit"), make_run("vit")
    Reconstruct.model_validate({**QUICK, "images": 24}).apply(few)
    cut.images_NCHW = cut.images_NCHW[:24]
    Reconstruct.model_validate(QUICK).apply(cut)
    assert same(state(few), state(cut)) and len(few.images_NCHW) > 24


def test_unknown_schedule_and_variable_name_the_choices() -> None:
    with pytest.raises(ValueError, match="schedule 'blok' does not exist; did you mean 'block'"):
        Reconstruct.model_validate({**QUICK, "schedule": ["blok"]})
    with pytest.raises(ValueError, match="rounding"):
        Reconstruct.model_validate({"learn": {"weight": 1.0}})


def test_options_of_their_own_are_written_out_only_where_they_are_used() -> None:
    plain = Reconstruct().model_dump(mode="json", by_alias=True)
    assert not {"views", "images"} & plain.keys() and "by" not in plain["evaluation"]
    assert not {"ranking", "balance", "extra"} & plain["objective"].keys()
    own = {"views": {"flip": 0.5}, "evaluation": {"by": "end"}, "objective": {"ranking": 0.1, "balance": "gradient"}}
    step = Reconstruct.model_validate(own)
    again = Reconstruct.model_validate(step.model_dump(mode="json", by_alias=True))
    assert again == step and again.views.flip == 0.5 and again.evaluation.by == "end"


@pytest.mark.parametrize(
    "options",
    [
        {"objective": {"global": 0.5, "balance": "gradient"}},
        {"objective": {"ranking": 0.5}},
        {"objective": {"ranking": 0.5, "global": 0.5, "global_on": "outputs"}},
        {"evaluation": {"by": "end", "held_out": 16}},
    ],
)
def test_each_part_of_the_objective_lowers_the_error_of_the_logits(
    make_run: Callable[..., Run], options: dict[str, Any]
) -> None:
    run = make_run()
    before = feature_error(run)
    Reconstruct.model_validate({**QUICK, **options}).apply(run)
    assert feature_error(run) < before


def test_a_segment_that_helps_itself_and_harms_the_end_is_rolled_back_where_the_end_judges(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, told = [], ""
    for by in ("both", "end"):
        run = make_run()
        found = iter([(1.0, 1.0), (0.1, 1.1)] * 100)  # its own error falls tenfold, that of the model rises
        monkeypatch.setattr("vitq.reconstruct.train.evaluate", lambda *_, found=found: next(found))
        Reconstruct.model_validate({**QUICK, "steps": 1, "evaluation": {"by": by}}).apply(run)
        found_names = {warning.name: warning for warning in run.events.warnings}
        kept.append("rolled-back" not in found_names)
        told = str(found_names.get("rolled-back"))
    assert kept == [True, False] and "at the model's end 1 -> 1.1" in told


@pytest.mark.parametrize(("task", "shape"), [(Values("output"), (6,)), (Dense("output", 6), (6, 32, 32))])
def test_ranking_needs_the_classes_of_an_image(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, task: Task, shape: tuple[int, ...]
) -> None:
    run = make_run()
    monkeypatch.setattr(Graph, "output_shapes", {"output": shape})
    run.task = task
    with pytest.raises(RecipeError, match="orders the classes of an image"):
        Reconstruct.model_validate({**QUICK, "objective": {"ranking": 0.5}}).apply(run)

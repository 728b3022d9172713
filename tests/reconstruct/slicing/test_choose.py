"""Outliers, slicings and their choice."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import RecipeError
from vitq.graph import Graph
from vitq.reconstruct import Reconstruct
from vitq.reconstruct.slicing.outliers import Outliers, outlier_profile
from vitq.reconstruct.slicing.slicings import adaptive, candidates
from vitq.run.run import Run
from vitq.tasks import Task, Values

QUICK = {"steps": 6, "batch": 8, "evaluation": {"held_out": 8}, "compute": {"precision": "float32"}}
CHOOSE = {"among": ["unit", "block", "2"], "steps": 3, "images": 24, "held_out": 8}


def state(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.student.module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_profile_sees_an_outlier_channel(teachers: dict[str, Graph]) -> None:
    graph = teachers["vit"].clone()
    x = torch.randn(16, 3, 32, 32)
    units = graph.spans("unit")
    calm = outlier_profile(graph, x, torch.device("cpu"))
    assert [place.cut for place in calm] == [unit.end for unit in units]
    position = next(p for n, p in graph.module.named_parameters() if "pos_embed" in n)
    with torch.no_grad():
        position[..., 5] += 50.0
    loud = outlier_profile(graph, x, torch.device("cpu"))
    assert loud[0].share > 0.5 > calm[0].share
    assert loud[0].ratio > 5 * calm[0].ratio


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_adaptive_merges_where_outliers_are_strong_and_stays_in_its_limits(
    teachers: dict[str, Graph], model: str
) -> None:
    graph = teachers[model]
    units = graph.spans("unit")
    profile = [Outliers(unit.name, unit.end, 1.0, 1.0) for unit in units]
    calm = [Outliers(unit.name, unit.end, 0.0, 1.0) for unit in units]

    def ends(spans: tuple[object, ...]) -> list[tuple[str, str]]:
        return [(span.start, span.end) for span in spans]  # type: ignore[attr-defined]

    assert ends(adaptive(graph, calm, 0.5, "2")) == ends(units)
    assert ends(adaptive(graph, profile, 0.5, "2")) == ends(graph.spans("2"))
    assert ends(adaptive(graph, profile, 0.5, "block")) == ends(graph.spans("block"))


def test_equal_slicings_are_tried_once_and_the_finest_comes_first(teachers: dict[str, Graph]) -> None:
    graph = teachers["vit"]
    profile = [Outliers(unit.name, unit.end, 0.0, 1.0) for unit in graph.spans("unit")]
    found = candidates(graph, profile, ("block", "unit", "2"), (0.5,), "2")
    assert [slicing.name for slicing in found] == ["unit", "block", "2"]


@pytest.mark.parametrize(("model", "even"), [("vit", True), ("swin", False)])
def test_forced_to_one_block_it_is_block_reconstruction(make_run: Callable[..., Run], model: str, even: bool) -> None:
    plain, chosen = make_run(model), make_run(model)
    Reconstruct.model_validate({**QUICK, "schedule": ["block"]}).apply(plain)
    one = {**CHOOSE, "among": ["block"], "outlier_quantiles": []}
    Reconstruct.model_validate({**QUICK, "equal_total_steps": even, "choose": one}).apply(chosen)
    assert same(state(plain), state(chosen))


@pytest.mark.parametrize("even", [False, True])
def test_trials_and_full_run_take_equal_steps_by_segment_or_in_total(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, even: bool
) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "vitq.reconstruct.step.sweep",
        lambda run, options, pieces: taken.append((*options.steps_of(run.student, pieces).values(), len(pieces))),
    )
    run = make_run()
    blocks = len(run.student.spans("block"))
    options = {"steps": 60, "equal_total_steps": even, "choose": {**CHOOSE, "steps": 30}}
    Reconstruct.model_validate({**QUICK, **options}).apply(run)
    *trials, full = taken
    assert len({pieces for _, pieces in trials}) > 1
    for (steps, pieces), wanted in [*((trial, 30) for trial in trials), (full, 60)]:
        assert steps == wanted if not even else abs(steps * pieces - wanted * blocks) <= pieces / 2


def test_the_best_trial_is_reconstructed_and_a_resumed_run_repeats_none(
    make_run: Callable[..., Run], kill_after: Callable[..., list[str]], tmp_path: Path
) -> None:
    step = Reconstruct.model_validate({**QUICK, "choose": CHOOSE})
    whole = make_run()
    step.apply(whole)

    killed = make_run(checkpoints=tmp_path / "run")
    saved = kill_after(killed, 2)
    with pytest.raises(KeyboardInterrupt):
        step.apply(killed)
    assert all("trial" in key for key in saved)
    resumed = make_run(checkpoints=tmp_path / "run", resume=True)
    step.apply(resumed)
    assert same(state(whole), state(resumed))


def test_trials_know_what_the_outputs_mean(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    meant: list[Task] = []
    monkeypatch.setattr("vitq.reconstruct.step.sweep", lambda run, options, pieces: meant.append(run.task))
    run = make_run()
    run.task_name = "values"
    Reconstruct.model_validate({**QUICK, "choose": CHOOSE}).choice(run)
    assert len(meant) > 1 and all(isinstance(task, Values) for task in meant)


def test_choosing_leaves_the_student_as_it_is_and_names_the_best(make_run: Callable[..., Run]) -> None:
    run = make_run("swin")
    before = state(run)
    choice = Reconstruct.model_validate({**QUICK, "choose": CHOOSE}).choice(run)
    assert same(before, state(run))
    assert set(choice.scores) >= {"unit", "block"}
    assert choice.scores[choice.best.name] == min(choice.scores.values())


def test_too_few_images_to_choose(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.images_NCHW = run.images_NCHW[:4]
    with pytest.raises(RecipeError, match="none of 4; give at least 5"):
        Reconstruct.model_validate({**QUICK, "choose": CHOOSE}).apply(run)


def test_the_python_verb_measures_a_model_and_refuses_a_recipe_without_a_choice(
    tiny: Callable[..., nn.Module],
) -> None:
    model = tiny("vit")
    images = torch.randn(32, 3, 32, 32)
    overrides = {f"reconstruct.choose.{key}": value for key, value in CHOOSE.items()}
    overrides |= {"reconstruct.batch": 8, "reconstruct.evaluation.held_out": 8}
    choice = vitq.granularity(model, images, overrides=overrides, progress=False)
    assert len(choice.profile) == 6 and choice.best.name in choice.scores
    with pytest.raises(RecipeError, match="oas"):
        vitq.granularity(model, images, recipe="mgrq", progress=False)

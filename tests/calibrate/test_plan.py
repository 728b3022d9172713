"""The plan that says which format each site gets, the steps that show and carry it out, and what they keep."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from vitq.bits import Bits
from vitq.calibrate import SCOPES, Calibrate, Insert, Placed, place, plan_formats, register_scope, scope_rows
from vitq.calibrate.parameters import parameters
from vitq.errors import GraphError, RecipeError
from vitq.graph import Graph, Role
from vitq.quantizers import Quantizer
from vitq.run.checkpoints import Checkpoints
from vitq.run.pipeline import apply_steps, preview
from vitq.run.run import Run
from vitq.run.step import Step

MakeRun = Callable[..., Run]
W4A8 = Bits(4, 8)


def test_a_plan_changes_nothing_and_can_be_edited_before_it_is_carried_out(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    plan = plan_formats(run.student, Insert(), W4A8)
    assert not run.student.quantizers
    site = "blocks.0.mlp.fc1/weight"
    plan[site] = replace(plan[site], format=replace(plan[site].format, bits=2))
    place(run.student, plan, run.device)
    held = {name: (q.format, q.axis) for name, q in run.student.quantizers.items() if isinstance(q, Quantizer)}
    assert held == {name: (placed.format, placed.axis) for name, placed in plan.items()}
    assert held[site][0].bits == 2 and held["blocks.1.mlp.fc1/weight"][0].bits == 4


def test_insert_carries_out_its_own_preview(vit: Graph, make_run: MakeRun) -> None:
    run, step = make_run(vit), Insert(scope="full", overrides={"head/*": {"bits": 8}})
    plan = step.preview(run.student, run.bits)
    step.apply(run)
    assert list(run.student.quantizers) == list(plan)


def test_what_a_step_of_another_name_previews_is_shown(vit: Graph, make_run: MakeRun) -> None:
    class Own(Step):
        def preview(self, graph: Graph, bits: Bits) -> Mapping[str, Placed]:
            return {name: placed for name, placed in plan_formats(graph, Insert(), bits).items() if "head" in name}

        def apply(self, run: Run) -> None:
            raise AssertionError("a preview applies nothing")

    run = make_run(vit)
    plan = preview(run, [Own()])
    assert set(plan) == {"head/input", "head/weight"} and not run.student.quantizers
    rows = scope_rows(run.student, planned={name: placed.format for name, placed in plan.items()})
    assert sum(row.sites for row in rows if row.bits == 4) == 2 and sum(row.sites for row in rows) > 2
    with pytest.raises(GraphError, match="already quantized"):
        preview(run, [Own(), Insert()])


def test_a_calibration_is_read_back_by_the_step_itself(vit: Graph, make_run: MakeRun, tmp_path: Path) -> None:
    steps = [Insert(), Calibrate(images=4, weights="minmax", activations="minmax")]
    first = make_run(vit)
    first.checkpoints = Checkpoints(tmp_path / "run", {"seed": 0})
    apply_steps(first, steps)
    second = make_run(vit)
    second.checkpoints, second.images_NCHW = (
        Checkpoints(tmp_path / "run", {"seed": 0}, resume=True),
        torch.empty(0, 3, 32, 32),
    )
    apply_steps(second, steps)
    kept, read = parameters(first.student), parameters(second.student)
    assert kept and all(torch.equal(tensor, read[path]) for path, tensor in kept.items())


def test_scopes_are_lists_of_roles_that_a_new_role_does_not_join() -> None:
    old = {"weight", "post_norm", "post_activation", "other"}
    assert SCOPES["deploy"] == old
    assert SCOPES["paper"] == old | {"query", "key", "value", "probabilities"}
    assert SCOPES["full"] == set(Role) - {Role.IMAGE}
    with pytest.raises(ValidationError, match=r"scope 'ful' does not exist; did you mean 'full'\?"):
        Insert(scope="ful")


def test_a_registered_scope_quantizes_for_the_readers_that_it_names(vit: Graph) -> None:
    with SCOPES.kept():
        register_scope("sums")(lambda: {"residual", "weight"})
        plan = plan_formats(vit, Insert(scope="sums", only="activations"), W4A8)
        assert plan["blocks.0.norm1/input"].readers == plan["blocks.0.attn.proj/output"].readers
        assert {vit.sites[name].role for name in plan} == {Role.NORM_INPUT, Role.RESIDUAL}
        with pytest.raises(RecipeError, match="already registered"):
            register_scope("sums")(set)
    with pytest.raises(RecipeError, match=r"role 'norm_inputs' does not exist; did you mean 'norm_input'\?"):
        register_scope("norms")(lambda: {"norm_inputs"})


def test_options_of_roles_that_are_not_used_are_not_written_out() -> None:
    assert "residual" not in Insert().model_dump() and "post_norm" in Insert().model_dump()
    given = Insert(residual={"granularity": "channel"})
    assert given.model_dump(mode="json")["residual"]["granularity"] == "channel"
    assert Insert.model_validate(given.model_dump()) == given

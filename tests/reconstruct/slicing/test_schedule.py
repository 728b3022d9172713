"""The plan of a schedule: which segments, in which order."""

from collections.abc import Callable

import pytest
import torch
from small_models import zoo

from vitq.activations import ActivationCache
from vitq.errors import RecipeError
from vitq.graph import Graph, Span, capture
from vitq.reconstruct.slicing.outliers import Outliers
from vitq.reconstruct.slicing.schedule import Piece, plan
from vitq.reconstruct.slicing.slicings import candidates
from vitq.run.run import Run

LEVELS = ("unit", "block", "2")


@pytest.fixture(scope="session")
def graphs(teachers: dict[str, Graph]) -> dict[str, Graph]:
    own = {family: teachers[family] for family in ("vit", "swin")}
    return {**own, "tiny_vit": capture(zoo("tiny_vit"), torch.randn(2, 3, 56, 56))}


def covered(graph: Graph, spans: list[Span]) -> list[str]:
    """Names of the units inside ``spans``, in order."""
    place = {cut: i for i, cut in enumerate(graph.cuts)}
    units = graph.spans("unit")
    return [
        unit.name
        for span in spans
        for unit in units
        if place[span.start] <= place[unit.start] and place[unit.end] <= place[span.end]
    ]


@pytest.mark.parametrize("model", ["vit", "swin", "tiny_vit"])
@pytest.mark.parametrize("level", ["unit", "block", "2", "stage", "network"])
def test_a_level_covers_every_unit_exactly_once(graphs: dict[str, Graph], model: str, level: str) -> None:
    graph = graphs[model]
    spans = [piece.span for piece in plan(graph, [level])]
    assert covered(graph, spans) == [unit.name for unit in graph.spans("unit")]


def stages(graph: Graph, span: Span) -> set[str]:
    """Stages that the layers inside ``span`` belong to, by their modules' names: ``layers.0``, ``stages.1``."""
    place = {cut: i for i, cut in enumerate(graph.cuts)}
    inside = [layer.name for layer in graph.spans("layer") if place[span.start] <= place[layer.cut] < place[span.end]]
    return {".".join(name.split(".")[:2]) for name in inside if name.startswith(("layers.", "stages."))}


@pytest.mark.parametrize("model", ["swin", "tiny_vit"])
def test_no_granularity_but_the_network_crosses_a_stage(graphs: dict[str, Graph], model: str) -> None:
    graph = graphs[model]
    for level in ("unit", "block", "2", "4", "99", "stage"):
        assert all(len(stages(graph, span)) <= 1 for span in graph.spans(level)), level
    asked = plan(graph, ["unit", "block", "99", "network"], "fine_to_coarse")
    assert [len(stages(graph, piece.span)) > 1 for piece in asked] == [False] * (len(asked) - 1) + [True]


@pytest.mark.parametrize("model", ["vit", "swin", "tiny_vit"])
def test_a_slicing_by_outliers_covers_every_unit_once_inside_its_stage(graphs: dict[str, Graph], model: str) -> None:
    graph = graphs[model]
    units = graph.spans("unit")
    share_U = torch.rand(len(units), generator=torch.Generator().manual_seed(0)).tolist()
    profile = [Outliers(unit.name, unit.end, share, 1.0) for unit, share in zip(units, share_U, strict=True)]
    found = candidates(graph, profile, (), (0.0, 0.25, 0.5, 0.75), "99")
    assert len(found) >= 2
    for slicing in found:
        spans = [piece.span for piece in slicing.pieces]
        assert covered(graph, spans) == [unit.name for unit in units]
        assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
        assert all(len(stages(graph, span)) <= 1 for span in spans)


@pytest.mark.parametrize("model", ["vit", "swin", "tiny_vit"])
def test_fine_to_coarse_has_the_spans_of_all_levels_once_children_first(graphs: dict[str, Graph], model: str) -> None:
    graph = graphs[model]
    pieces = plan(graph, LEVELS, "fine_to_coarse")
    spans = [(piece.span.start, piece.span.end) for piece in pieces]
    assert len(set(spans)) == len(spans)
    assert set(spans) == {(span.start, span.end) for level in LEVELS for span in graph.spans(level)}
    place = {cut: i for i, cut in enumerate(graph.cuts)}
    for i, (start, end) in enumerate(spans):
        for later_start, later_end in spans[i + 1 :]:
            inside = place[start] <= place[later_start] and place[later_end] <= place[end]
            assert not inside, "a child comes after what holds it"


def test_fine_to_coarse_follows_units_by_their_block(graphs: dict[str, Graph]) -> None:
    levels = [piece.level for piece in plan(graphs["vit"], LEVELS, "fine_to_coarse")]
    assert levels == ["unit", "unit", "unit", "block", "unit", "unit", "block", "2", "unit"]


def test_one_level_is_the_same_in_both_orders(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        assert plan(graph, ["unit"], "fine_to_coarse") == plan(graph, ["unit"])


def test_levels_that_do_not_nest_are_refused(graphs: dict[str, Graph]) -> None:
    with pytest.raises(RecipeError, match="nested"):
        plan(graphs["vit"], ["2", "block"], "fine_to_coarse")
    with pytest.raises(RecipeError, match="between cuts"):
        plan(graphs["vit"], ["layer", "unit"], "fine_to_coarse")


def test_the_prefix_forgets_what_training_made_stale(make_run: Callable[..., Run]) -> None:
    run = make_run()
    pieces: tuple[Piece, ...] = plan(run.student, LEVELS, "fine_to_coarse")
    activations = ActivationCache(run.student, run.teacher, run.images_NCHW, run.device)
    for i, piece in enumerate(pieces):
        pair = activations.at(piece.span.cut)
        fresh = run.student.segment(run.student.cuts[0], piece.span.cut)(run.images_NCHW) if i else run.images_NCHW
        assert torch.allclose(pair.student_N, fresh, atol=1e-5)
        with torch.no_grad():  # as training would
            for quantizer in run.student.segment(piece.span.start, piece.span.end).children():
                for parameter in quantizer.parameters():
                    parameter.mul_(1.1)
        activations.evict(piece.span, None, {later.span.cut for later in pieces[i + 1 :]})
        assert len(activations.pairs) <= len(LEVELS) + 1

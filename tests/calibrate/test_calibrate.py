"""The step on a whole graph: what each search gives, errors by name, memory by segment."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from vitq.activations import sites_by_segment, walk
from vitq.calibrate import SCOPES, Calibrate, Insert, SiteFormat
from vitq.calibrate.groups import find_groups
from vitq.errors import CalibrationError, RecipeError
from vitq.graph import Graph, capture
from vitq.quantizers import Granularity, Quantizer
from vitq.run.run import Run

MakeRun = Callable[..., Run]
CHANNEL = SiteFormat(granularity=Granularity.CHANNEL)


def parameters(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    return {n: q.parameters_dict() for n, q in run.student.quantizers.items() if isinstance(q, Quantizer)}


def quantized(run: Run, search: str) -> Run:
    Insert(probabilities=SiteFormat(format="log2")).apply(run)
    Calibrate(images=4, weights=search, activations=search, rounds=1).apply(run)
    return run


@pytest.mark.parametrize("search", ["minmax", "percentile", "mse", "output", "hessian"])
def test_every_search_calibrates_every_site_the_same_way_twice(vit: Graph, make_run: MakeRun, search: str) -> None:
    first, second = (parameters(quantized(make_run(vit), search)) for _ in range(2))
    assert set(first) == {name for name, site in vit.sites.items() if site.readers(SCOPES["paper"])}
    for name, values in first.items():
        for key, value in values.items():
            assert torch.equal(value, second[name][key]), (name, key)


def test_the_whole_model_gets_closer_from_min_max_to_output_search(vit: Graph, make_run: MakeRun) -> None:
    errors = []
    for search in ("minmax", "mse", "output"):
        run = quantized(make_run(vit, images=16), search)
        error = (run.student(run.images_NCHW) - vit(run.images_NCHW)).square().mean()
        errors.append(float(error))
    assert errors[2] < errors[1] < errors[0]


def test_eight_bits_are_almost_exact(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit, "w8a8", images=16)
    Insert().apply(run)
    Calibrate(images=8).apply(run)
    truth = vit(run.images_NCHW)
    assert float((run.student(run.images_NCHW) - truth).square().mean() / truth.var()) < 2e-3


def test_a_glob_and_only_uncalibrated_leave_the_rest_alone(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    Insert().apply(run)
    Calibrate(images=2, weights="mse", activations="mse", sites="blocks.0.*").apply(run)
    done = {name for name, q in run.student.quantizers.items() if isinstance(q, Quantizer) and q.calibrated}
    assert done == {name for name in run.student.quantizers if name.startswith("blocks.0.")}
    before = parameters_of(run, done)
    Calibrate(images=8, only_uncalibrated=True).apply(run)
    for name, values in before.items():
        assert all(torch.equal(parameters(run)[name][key], value) for key, value in values.items())
    with pytest.raises(RecipeError, match="did you mean"):
        Calibrate(sites="blocks.0.mlp.fc1/weigth").apply(run)


def parameters_of(run: Run, names: set[str]) -> dict[str, dict[str, torch.Tensor]]:
    quantizers = {name: run.student.quantizers[name] for name in names}
    return {n: q.parameters_dict() for n, q in quantizers.items() if isinstance(q, Quantizer)}


def test_unusable_tensors_are_named(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    Insert().apply(run)
    broken = run.images_NCHW.clone()
    broken[1, 0, 0, 0] = torch.nan
    zeroed = make_run(vit)
    with torch.no_grad():
        for parameter in ("blocks.0.norm1.weight", "blocks.0.norm1.bias"):
            zeroed.student.module.get_parameter(parameter).zero_()
    Insert().apply(zeroed)
    run.images_NCHW = broken
    with pytest.raises(CalibrationError, match=r"blocks\.0\.attn\.qkv/input.*NaN"):
        Calibrate().apply(run)
    with pytest.raises(CalibrationError, match=r"blocks\.0\.attn\.qkv/input.*every value is 0"):
        Calibrate().apply(zeroed)
    run.images_NCHW = broken[:0]
    with pytest.raises(CalibrationError, match="no calibration images"):
        Calibrate().apply(run)


class Decoder(nn.Module):
    """Queries that start from zeros, as DETR's do, and are mixed before they read the image."""

    def __init__(self, *, sized_as_image: bool) -> None:
        super().__init__()
        self.sized_as_image = sized_as_image
        self.read, self.value, self.head = nn.Linear(48, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        memory = self.read(x_BCHW.reshape(x_BCHW.shape[0], 64, 48))
        start = torch.zeros_like(memory) if self.sized_as_image else memory.new_zeros(memory.shape[0], 4, 8)
        mixed = (start @ start.transpose(1, 2)).softmax(-1) @ self.value(start)
        return self.head((mixed @ memory.transpose(1, 2)).softmax(-1) @ memory)


@pytest.mark.parametrize("search", ["minmax", "percentile", "mse", "output", "hessian"])
@pytest.mark.parametrize("sized_as_image", [False, True])
def test_zeros_that_are_no_matter_of_the_images_are_a_named_warning(
    make_run: MakeRun, search: str, sized_as_image: bool
) -> None:
    torch.manual_seed(0)
    graph = capture(Decoder(sized_as_image=sized_as_image), torch.randn(2, 3, 32, 32))
    run = make_run(graph, "w8a8")
    Insert().apply(run)
    Calibrate(images=4, weights=search, activations=search, rounds=1).apply(run)
    zeros = [w.message for w in run.events.warnings if w.name == "always-zero"]
    assert zeros and not any("read" in message or "head" in message for message in zeros)
    truth = graph(run.images_NCHW)
    assert float((run.student(run.images_NCHW) - truth).norm() / truth.norm()) < 0.1
    empty = make_run(graph, "w8a8")
    with torch.no_grad():
        for parameter in ("read.weight", "read.bias"):
            empty.student.module.get_parameter(parameter).zero_()
    Insert().apply(empty)
    with pytest.raises(CalibrationError, match="every value is 0 on all calibration images"):
        Calibrate(images=4, weights=search, activations=search).apply(empty)


def test_a_dead_channel_is_a_named_warning(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    with torch.no_grad():
        run.student.module.get_parameter("blocks.1.norm2.weight")[5] = 0
    Insert(post_norm=CHANNEL).apply(run)
    Calibrate(images=4, weights="mse", activations="mse").apply(run)
    warnings = [w for w in run.events.warnings if w.name == "dead-channel"]
    assert len(warnings) == 1 and "blocks.1.mlp.fc1/input" in warnings[0].message
    assert bool(torch.isfinite(run.student(run.images_NCHW)).all())


def test_only_one_segment_is_alive_at_a_time(vit: Graph, make_run: MakeRun) -> None:
    segments = sites_by_segment(vit, lambda site: True)
    assert sum(len(segment.sites) for segment in segments) == sum(not s.is_weight for s in vit.sites.values())
    previous: list[weakref.ref[torch.Tensor]] = []
    gc.freeze()  # what is older than this test is none of its business
    for _, tensors in walk(vit, make_run(vit).images_NCHW, segments, torch.device("cpu")):
        gc.collect()
        assert all(ref() is None for ref in previous)
        previous = [weakref.ref(tensor) for name, tensor in tensors.items() if "patch_embed" not in name]
        del tensors


def test_groups_join_what_meets_in_one_product(vit: Graph) -> None:
    groups = find_groups(vit)
    names = [tuple(site.name.rpartition(".")[2] for site in group.sites) for group in groups[1:5]]
    assert names == [
        ("qkv/input", "qkv/weight"),
        ("attn/query", "attn/key"),
        ("attn/probabilities", "attn/value"),
        ("proj/input", "proj/weight"),
    ]

"""Search ``hessian``: its errors and gradients against brute force, and what it does to a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert, SiteFormat, sensitivity
from vitq.calibrate.candidates import Candidates, SearchSpec
from vitq.calibrate.groups import find_groups, input_rows, weight_matrix
from vitq.calibrate.output_search import MOVES, product_score, search_groups, weight_score
from vitq.calibrate.samples import samples_of
from vitq.calibrate.searches import clip_grid, local_search, mse
from vitq.calibrate.sensitivity import Sensitivity, _rows, sensitivities
from vitq.graph import Graph, capture
from vitq.quantizers import Format, Granularity, Quantizer
from vitq.recipes import load_recipe
from vitq.run.checkpoints import Checkpoints
from vitq.run.pipeline import run_steps
from vitq.run.run import Run

MakeRun = Callable[..., Run]
CHANNEL = SearchSpec(Format("affine", 3, Granularity.CHANNEL))
TENSOR = SearchSpec(Format("affine", 3))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(spec: SearchSpec, x: torch.Tensor, axis: int | None) -> Candidates:
    rows = samples_of(x, axis)
    return clip_grid(spec, rows.low_G, rows.high_G).part(0, 8)


@pytest.mark.parametrize("per_tensor", [False, True])
def test_a_weight_s_score_is_the_weighed_output_error(per_tensor: bool) -> None:
    x, w, weights = random(60, 12), random(7, 12, seed=1), random(60, 7, seed=2).square()
    quantized = x + 0.2 * random(60, 12, seed=3)
    spec, axis = (TENSOR, None) if per_tensor else (CHANNEL, 0)
    tried = grid(spec, w, axis)
    found = weight_score(spec, w, quantized, x, weights)(tried)
    for k in range(len(tried)):
        own = tried.part(k, k + 1).shaped(*(() if per_tensor else (-1, 1)))
        error_O = ((quantized @ spec.simulate(w, own).T - x @ w.T).square() * weights).sum(0)
        torch.testing.assert_close(found[k], error_O.sum()[None] if per_tensor else error_O)


@pytest.mark.parametrize("axis", [None, -3])
def test_an_activation_s_score_is_the_weighed_output_error(axis: int | None) -> None:
    x, y, weights = random(2, 3, 10, 4), random(2, 3, 4, 9, seed=1), random(2, 3, 10, 9, seed=2).square()
    quantized = y + 0.1 * random(2, 3, 4, 9, seed=3)
    spec = TENSOR if axis is None else SearchSpec(Format("affine", 3, Granularity.HEAD))
    tried = grid(spec, x, axis)
    found = product_score(spec, x, axis, y, quantized, weights)(tried)
    for k in range(len(tried)):
        own = tried.part(k, k + 1).shaped(*((3, 1, 1) if axis else ()))
        error = (spec.simulate(x, own) @ quantized - x @ y).square() * weights
        torch.testing.assert_close(found[k], error.sum((0, 2, 3)) if axis else error.sum()[None])


def test_groups_of_inputs_lower_the_weighed_error() -> None:
    x, w, weights = random(80, 16), random(5, 16, seed=1), random(80, 5, seed=2).square()
    spec = SearchSpec(Format("affine", 2, Granularity("group(8)")))
    start = mse(spec, samples_of(w.reshape(-1, 8), 0))

    def error(found: Candidates) -> float:
        changed = spec.simulate(w.reshape(-1, 8), found.part(0, 1).shaped(-1, 1)).reshape(w.shape) - w
        return float(((x @ changed.T).square() * weights).sum())

    assert error(search_groups(spec, start, w, x, x, MOVES, weights)) < 0.95 * error(start)


def test_what_only_an_output_without_influence_reads_is_clipped() -> None:
    x = random(200, 6)
    x[:, 0] *= 20  # an outlier channel, read by the last output alone
    w = random(4, 6, seed=1)
    w[:3, 0] = 0
    weights = torch.ones(200, 4)
    weights[:, 3] = 0
    start = mse(TENSOR, samples_of(x, None))
    scales = {}
    for name, own in (("output", None), ("hessian", weights)):
        score = product_score(TENSOR, x, None, w.T, w.T, own)
        scales[name] = float(local_search(TENSOR, start, score, MOVES * 4)["scale"])
    assert scales["hessian"] < 0.5 * scales["output"]


def test_outputs_without_any_influence_leave_the_parameters_as_they_are() -> None:
    x, w = random(50, 6), random(4, 6, seed=1)
    start = mse(CHANNEL, samples_of(w, 0))
    found = local_search(CHANNEL, start, weight_score(CHANNEL, w, x, x, torch.zeros(50, 4)), MOVES)
    assert torch.equal(found["scale"], start["scale"])


def quantized(run: Run, search: str = "mse") -> Run:
    Insert(probabilities=SiteFormat(format="twin")).apply(run)
    Calibrate(images=6, weights=search, activations=search, rounds=1).apply(run)
    return run


def found_in(run: Run, images: int = 6) -> dict[str, Sensitivity]:
    return sensitivities(
        run.student,
        run.teacher,
        run.task,
        run.images_NCHW[:images],
        find_groups(run.student),
        run.device,
        lambda name: run.generator(name),
    )


def test_sensitivities_are_squared_gradients_of_the_quantized_model(vit: Graph, make_run: MakeRun) -> None:
    run = quantized(make_run(vit, images=6))
    found = found_in(run)
    groups = [group for group in find_groups(run.student) if group.layers]
    assert set(found) == {layer.name for group in groups for layer in group.layers}
    x = run.images_NCHW.clone().requires_grad_()
    names = list(found)
    output = run.student.outputs["logits"]
    with torch.enable_grad():
        logits, *taps = run.student.segment(run.student.cuts[0], output, names)(x)
        wanted = functional.log_softmax(vit(x.detach()), -1)
        loss = functional.kl_div(functional.log_softmax(logits, -1), wanted, reduction="sum", log_target=True)
        gradients = dict(zip(names, torch.autograd.grad(loss, taps), strict=True))
    for group in groups:
        for layer in group.layers:
            own, g = found[layer.name], gradients[layer.name]
            rows = (_rows(layer, g) if group.weights else g)[own.rows_R].square()
            torch.testing.assert_close(own.weights, rows / rows.mean(), rtol=2e-3, atol=1e-4)


def test_rows_of_gradients_belong_to_the_rows_of_inputs(vit: Graph, make_run: MakeRun) -> None:
    x = make_run(vit).images_NCHW
    for group in find_groups(vit):
        for layer, site in zip(group.layers, group.weights, strict=False):
            _, source, y = vit.segment(vit.cuts[0], layer.name, [group.inputs[0].node, layer.name])(x)
            w_OI = weight_matrix(layer, vit.parameter(site.node)[1])
            assert w_OI is not None
            bias = _rows(layer, y) - input_rows(layer, source) @ w_OI.T
            torch.testing.assert_close(bias, bias[:1].expand_as(bias), rtol=0, atol=1e-4)


def test_a_quantizer_without_parameters_is_passed_over(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit, images=4)
    Insert().apply(run)
    Calibrate(images=4, weights="mse", activations="mse", sites="blocks.0.*").apply(run)
    found = found_in(run, 4)
    assert all(bool(own.weights.isfinite().all()) and float(own.weights.sum()) > 0 for own in found.values())


def test_a_sample_keeps_the_rows_that_matter_and_stands_for_the_rest(vit: Graph) -> None:
    layer = next(group.layers[0] for group in find_groups(vit) if group.weights)
    gradients = torch.zeros(400, 2)
    gradients[::10] = 1 + random(40, 2).abs()
    shares = []
    for seed in range(60):
        kept = sensitivity._Kept(layer, False, 20, 400, torch.Generator().manual_seed(seed))
        for part in gradients.split(90):
            kept.add(part)
        own = kept.squared()
        assert len(own.rows_R) == 20 and bool((own.rows_R % 10 == 0).all())
        scale = float(kept.priority_R[-1]) if len(kept.rows_R) > 20 else 0.0
        energy = gradients[own.rows_R].square().sum(1)
        shares.append(float(energy.clamp(min=scale).sum()))
    assert sum(shares) / len(shares) == pytest.approx(float(gradients.square().sum()), rel=0.05)


class Ignored(nn.Module):
    """A layer that nothing reads beside one that makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.used, self.ignored = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BC = self.patch(x_BCHW).mean((2, 3))
        logits_BK: torch.Tensor = self.used(x_BC) + 0.0 * self.ignored(x_BC)
        return logits_BK


def test_a_layer_that_does_not_matter_keeps_what_its_own_tensor_says() -> None:
    torch.manual_seed(0)
    graph = capture(Ignored().eval(), torch.zeros(2, 3, 8, 8))
    kept = {}
    for search in ("mse", "hessian"):
        run = Run(graph, graph.clone(), random(12, 3, 8, 8), Bits.parse("w2a3"))
        Insert().apply(run)
        Calibrate(weights=search, activations=search).apply(run)
        quantizers = run.student.quantizers.items()
        kept[search] = {n: q.parameters_dict()["scale"] for n, q in quantizers if isinstance(q, Quantizer)}
    assert torch.equal(kept["mse"]["ignored/weight"], kept["hessian"]["ignored/weight"])
    assert not torch.equal(kept["mse"]["used/weight"], kept["hessian"]["used/weight"])


def distance(run: Run) -> float:
    x = run.images_NCHW
    return float(run.task.distance({"logits": run.student(x)}, {"logits": run.teacher(x)}))


def test_a_resumed_run_has_the_same_parameters(vit: Graph, make_run: MakeRun, tmp_path: Path) -> None:
    found = []
    for resume in (False, True):
        run = make_run(vit)
        run.checkpoints = Checkpoints(tmp_path / "run", {}, resume=resume)
        if resume:
            run.images_NCHW = torch.zeros(0, 3, 32, 32)  # so that nothing can be calibrated anew
        quantized(run, "hessian")
        found.append({n: q.parameters_dict() for n, q in run.student.quantizers.items() if isinstance(q, Quantizer)})
    for name, own in found[0].items():
        assert all(torch.equal(value, found[1][name][key]) for key, value in own.items())


@pytest.mark.parametrize("name", ["ptq4vit", "mptq-vit"])
def test_its_recipes_run(vit: Graph, make_run: MakeRun, name: str) -> None:
    overrides = {"calibrate.images": 4, "calibrate.rounds": 1}
    run = make_run(vit, "w6a6")
    run_steps(run, load_recipe(name, overrides=overrides).steps)
    assert all(q.calibrated for q in run.student.quantizers.values() if isinstance(q, Quantizer))
    assert distance(run) < 0.05

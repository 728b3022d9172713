"""Rewrites keep the model's function, behind every kind of norm and reader, and name what they leave alone."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import small_models
import torch
from small_models import ClipTower
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert, SiteFormat
from vitq.errors import GraphError
from vitq.graph import Graph, Role, capture
from vitq.graph.queries import AffineNorm, affine_norms, consumers_at
from vitq.graph.queries.affine import PLACES
from vitq.quantizers import Quantizer
from vitq.rewrite import AddNoise, FoldNorms, Smooth, SmoothQuant, SqB
from vitq.rewrite.noise import step_size
from vitq.rewrite.norms import Seen, watch
from vitq.rewrite.operands import Plan, output_error
from vitq.run.checkpoints import Checkpoints
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run
from vitq.run.step import Step

STEPS: dict[str, Step] = {
    "smoothquant": SmoothQuant(images=4),
    "searched": SmoothQuant(images=4, alphas=(0.2, 0.5, 0.8)),
    "sq_b": SqB(images=4),
    "scale first": SqB.model_validate({"images": 4, "order": "scale_shift"}),
    "fold_norms": FoldNorms(),
    "add_noise": AddNoise(images=4, amplitudes=(0.5, 2.0)),
    "smooth": Smooth(images=4, threshold=1.0, roles=(Role.POST_NORM, Role.POST_ACTIVATION, Role.OTHER)),
}
MODELS = ("vit", "deit", "swin", "clip")


def lively(graph: Graph) -> Graph:
    """Leave no parameter at zero or one, and give norms outlier channels that are not symmetric."""
    generator = torch.Generator().manual_seed(1)
    norms = {
        node.target: node.name
        for owner in graph.module.graph.nodes
        if owner.target in PLACES
        for node in owner.all_input_nodes
        if node.op == "get_attr"
    }
    with torch.no_grad():
        for name, tensor in graph.module.named_parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
            if name in norms and name.endswith("weight"):
                tensor.mul_(torch.rand(tensor.shape, generator=generator).add_(0.1).pow_(-0.7))
            elif name in norms:
                tensor.add_(2 * torch.randn(tensor.shape, generator=generator))
    return graph


@pytest.fixture(scope="module")
def captured(tiny: Callable[..., nn.Module]) -> Callable[[str], Graph]:
    """Return a function that captures a model by name, once."""

    @cache
    def make(name: str) -> Graph:
        if name == "clip":
            torch.manual_seed(0)
            return lively(capture(small_models.lively(ClipTower()), pictures(2)))
        if name == "deit":
            return lively(capture(small_models.zoo("deit"), pictures(2)))
        depths = {"swin": {"depths": (1, 1)}}
        return lively(capture(tiny(name, **depths.get(name, {})), pictures(2)))

    return make


Captured = Callable[[str], Graph]


def pictures(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def images_for(graph: Graph) -> torch.Tensor:
    shape = next(iter(graph.module.graph.find_nodes(op="placeholder"))).meta["val"].shape
    return pictures(4, int(shape[-1]))


class Memory(Checkpoints):
    """A store that remembers without a folder."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {}

    def load(self, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        return (dict(self.held[key][0]), dict(self.held[key][1])) if key in self.held else None

    def save(self, key: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None) -> None:
        self.held[key] = (dict(tensors), dict(facts or {}))


def run_on(graph: Graph, store: Checkpoints | None = None, bits: str = "w4a4") -> Run:
    return Run(graph, graph.clone(), images_for(graph), Bits.parse(bits), checkpoints=store or Memory())


def noises(graph: Graph) -> Memory:
    """Return what an interrupted ``add_noise`` left that had a noise of one for every input."""
    store, generator = Memory(), torch.Generator().manual_seed(3)
    inputs = AddNoise().inputs(run_on(graph))
    channels = {
        name: target.channels if isinstance(target, AffineNorm) else target[0].channels
        for name, target in inputs.items()
    }
    drawn = {
        name: torch.randn(size, generator=generator, dtype=torch.float64).clamp(-1, 1)
        for name, size in channels.items()
    }
    store.held["run"] = (drawn, {"warnings": []})
    return store


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def tensors_of(graph: Graph) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in graph.module.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("step", STEPS)
def test_the_function_stays_in_single_and_in_double_precision(captured: Captured, step: str, model: str) -> None:
    graph = captured(model)
    store = noises(graph) if step == "add_noise" else Memory()
    run, x = run_on(graph, store), images_for(graph)
    before = tensors_of(graph)
    STEPS[step].apply(run)
    assert distance(run.student(x), graph(x)) < 1e-5
    changed = [name for name, new in tensors_of(run.student).items() if not torch.equal(new, before.get(name, x[:0]))]
    assert len(changed) >= 4
    exact = graph.clone()
    exact.module.double()
    again = Run(exact, exact.clone(), x, run.bits, checkpoints=store)
    STEPS[step].apply(again)
    assert distance(again.student(x.double()), exact(x.double())) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("step", STEPS)
def test_a_resumed_run_gets_what_the_interrupted_one_had(captured: Captured, step: str) -> None:
    store, graph = Memory(), captured("swin")
    first = run_on(graph, store)
    STEPS[step].apply(first)
    second = Run(graph, graph.clone(), first.images_NCHW[:1] * 9, first.bits, seed=5, checkpoints=store)
    STEPS[step].apply(second)
    old, new = tensors_of(first.student), tensors_of(second.student)
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert first.events.warnings == second.events.warnings


def outputs_of_norms(graph: Graph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what every norm that may change gives, as x_NC."""
    return {
        norm.name: norm.consumers[0].per_channel(
            graph.segment(graph.cuts[0], norm.consumers[0].source.name, floating=True)(x)
        )
        for norm in affine_norms(graph)
        if isinstance(norm, AffineNorm)
    }


@torch.no_grad()
def test_channels_are_centred_and_as_large_as_the_formula_says(captured: Captured) -> None:
    graph = captured("clip")
    x = images_for(graph)
    before = outputs_of_norms(graph, x)
    run = run_on(graph)
    SqB(images=4, alphas=(1.0,)).apply(run)
    after = outputs_of_norms(run.student, x)
    name = "clip.vision_model.encoder.layers.0.layer_norm1"
    assert float(before[name].amax(0).add(before[name].amin(0)).abs().max()) > 1
    torch.testing.assert_close(after[name].amax(0), torch.ones(24), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[name].amin(0), -torch.ones(24), rtol=1e-4, atol=1e-4)
    run = run_on(graph)
    SmoothQuant(images=4, alphas=(0.4,)).apply(run)
    after = outputs_of_norms(run.student, x)
    modules = dict(graph.module.named_parameters())
    weights = [modules[f"clip.vision_model.encoder.layers.0.self_attn.{k}_proj.weight"] for k in "qkv"]
    largest = torch.cat(weights).abs().amax(0)  # over all three layers that read the norm
    factor = before[name].abs().amax(0).pow(0.4) / largest.pow(0.6)
    torch.testing.assert_close(after[name], before[name] / factor, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_folded_norms_are_plain(captured: Captured) -> None:
    run = run_on(captured("vit"))
    FoldNorms().apply(run)
    plain = dict(run.student.module.named_parameters())
    for name in ("blocks.0.norm1", "blocks.0.norm2"):
        assert bool((plain[f"{name}.weight"] == 1).all()) and bool((plain[f"{name}.bias"] == 0).all())


@torch.no_grad()
def test_quantized_layers_come_nearer_and_the_search_knows_what_insert_will_place(captured: Captured) -> None:
    graph = captured("deit")
    x = images_for(graph)
    exact = graph(x)

    def error(*steps: Step) -> float:
        run = run_on(graph)
        symmetric = SiteFormat(symmetric=True)
        apply_steps(run, [*steps, Insert(post_norm=symmetric), Calibrate(images=4, weights="mse", activations="mse")])
        for name in [n for n in run.student.quantizers if run.student.sites[n].role is not Role.POST_NORM]:
            run.student.remove(name)
        return float((run.student(x) - exact).square().mean())

    plain, scaled, shifted = error(), error(SmoothQuant(images=4)), error(SqB(images=4))
    assert scaled < plain and shifted < scaled


def test_operands_are_searched_as_the_steps_ahead_will_quantize_them(captured: Captured) -> None:
    seen = list[tuple[Any, Any]]()

    class Look(Step):
        def apply(self, run: Run) -> None:
            plan = Plan(run)
            site = run.student.sites["blocks.0.attn.qkv/input"].node
            weight = run.student.sites["blocks.0.attn.qkv/weight"].node
            seen.append((plan.activation(site), plan.weight(weight)))

    form = SiteFormat.model_validate({"symmetric": True, "granularity": "channel"})
    weights = Insert(post_norm=form, only="weights")
    for steps in ([Look()], [Look(), Insert(post_norm=form)], [Look(), weights]):
        apply_steps(run_on(captured("vit"), bits="w3a6"), steps)
    (guess, weight), (known, _), (absent, _) = seen
    assert (guess.bits, guess.axis, guess.symmetric) == (6, None, False) and (weight.bits, weight.axis) == (3, 0)
    assert (known.bits, known.axis, known.symmetric) == (6, -1, True) and absent is None


@torch.no_grad()
def test_noise_joins_the_bias_of_a_norm_and_is_a_stored_sum_elsewhere(captured: Captured) -> None:
    graph = captured("vit")
    run, x = run_on(graph, noises(graph)), images_for(graph)
    AddNoise().apply(run)
    sums = {name for name, _ in run.student.module.named_buffers() if name.endswith("_noise")}
    assert len(sums) == 5  # proj and fc2 of both blocks, and the head
    assert sum(name.endswith("norm1") or name.endswith("norm2") for name in noises(graph).held["run"][0]) == 4
    site = run.student.sites["blocks.0.mlp.fc2/input"]
    was = graph.segment(graph.cuts[0], graph.sites[site.name].node)(x)
    noise_C = noises(graph).held["run"][0][site.name].float()
    torch.testing.assert_close(run.student.segment(graph.cuts[0], site.node)(x), was + noise_C, rtol=1e-4, atol=1e-4)
    apply_steps(run, [Insert(), Calibrate(images=4, weights="mse", activations="mse")])
    assert isinstance(run.student.quantizers[site.name], Quantizer)


def stuck() -> Seen:
    """Return a layer whose input lies near the middle between two codes but for one outlier: rounding is biased."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(2), nn.Linear(16, 4))
    x_NCHW = (0.06 + 0.01 * torch.randn(8, 3, 4, 4)).clamp(0.04, 0.066)
    x_NCHW[0, 0, 0, 0] = 2.0
    graph = capture(module.eval(), x_NCHW[:2])
    site = next(site for site in graph.sites.values() if not site.is_weight)
    run = Run(graph, graph, x_NCHW, Bits.parse("w8a4"))
    ((_, seen),) = watch(run, Plan(run), [consumers_at(graph, site)], 8)
    return seen


@torch.no_grad()
def test_noise_is_taken_where_it_helps_the_output() -> None:
    seen = stuck()
    error = output_error(seen.layers)
    unit_C = 2 * torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    assert output_error(seen.layers, offset_C=-unit_C * step_size(seen)) < 0.8 * error


def test_what_is_quantized_already_is_refused(captured: Captured) -> None:
    for step in STEPS.values():
        run = run_on(captured("vit"))
        Insert().apply(run)
        with pytest.raises(GraphError, match=f"{step.step_name} changes what is quantized"):
            step.apply(run)


def test_where_student_and_teacher_are_compared_a_norm_stays(captured: Captured) -> None:
    run = run_on(captured("vit"))
    SmoothQuant(images=4).apply(run)
    ((name, message),) = run.events.warnings
    assert name == "rewrite-skipped" and message.startswith("norm 'norm' stays as it is") and "compared" in message


class Zoo(nn.Module):
    """Every norm before a layer that can take its channels up, or, for kind "odd", places that cannot."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.conv = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 1)
        self.batch, self.group = nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.grouped, self.up = nn.Conv2d(8, 8, 2, groups=4), nn.ConvTranspose2d(8, 8, 2)
        self.padded = nn.Conv2d(8, 8, 3, padding=1)
        self.rms, self.bare = nn.RMSNorm(8), nn.LayerNorm(8, elementwise_affine=False)
        self.scale, self.shift = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(16, 8)
        self.fc4, self.fc5 = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two_readers, self.tied, self.alone = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.halved, self.padded_rows = nn.LayerNorm(8), nn.LayerNorm(8)
        self.matrix, self.head = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        if self.kind == "maps":
            y = y + self.conv(self.batch(y))
            y = y + self.padded(self.group(y))
            y = y[..., 1:, 1:] + self.grouped(self.instance(y))
            y = self.up(self.group_of(y))
            return self.head(y.mean((2, 3)))
        y = y.flatten(2).transpose(1, 2)
        if self.kind == "tokens":
            y = y + self.fc1(self.rms(y)) + self.written(y) @ self.matrix
            y = y + self.fc2(self.bare(y)) + self.fc3(self.bare(y).unflatten(1, (-1, 2)).flatten(2)).repeat(1, 2, 1)
        else:
            y = y + self.alone(y)
            z = self.two_readers(y)
            y = y + self.fc1(z) + z
            y = y + self.fc2(self.tied(y)) + self.fc2(y)
            y = y + self.fc4(2 * self.halved(y))
            y = y + self.fc5(nn.functional.pad(self.padded_rows(y), (0, 0, 0, 1)))[:, :-1]
        return self.head(y.mean(1))

    def written(self, y: torch.Tensor) -> torch.Tensor:
        """A layer norm that is written out."""
        centred = y - y.mean(-1, keepdim=True)
        unit = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
        return unit * self.scale + self.shift

    def group_of(self, y: torch.Tensor) -> torch.Tensor:
        """A group norm with parameters of its own."""
        return nn.functional.group_norm(y, 4, self.scale, self.shift)


@cache
def zoo(kind: str) -> Graph:
    torch.manual_seed(0)
    return lively(capture(Zoo(kind).eval(), pictures(2, 8)))


NORMS: dict[str, dict[str, str]] = {
    "maps": {"batch": "", "group": "adds zeros", "instance": "", "group_norm_1": "transposed"},
    "tokens": {"rms": "no bias", "div": "without a bias", "bare": "", "bare.2": ""},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("step", STEPS)
def test_norms_and_layers_of_every_kind_are_rewritten(step: str, kind: str) -> None:
    graph = zoo(kind)
    norms = {norm.name: norm for norm in affine_norms(graph) if isinstance(norm, AffineNorm)}
    assert norms.keys() == NORMS[kind].keys()
    for name, why in NORMS[kind].items():
        assert why in norms[name].no_shift and bool(why) == bool(norms[name].no_shift)
    run, x = run_on(graph), images_for(graph)
    before = outputs_of_norms(graph, x)
    STEPS[step].apply(run)
    assert distance(run.student(x), graph(x)) < 1e-5
    after = outputs_of_norms(run.student, x)
    if step in ("smoothquant", "fold_norms"):
        plain = {"bare", "bare.2"} & norms.keys() if step == "fold_norms" else set[str]()
        assert {name for name in norms if torch.allclose(after[name], before[name], atol=1e-4)} == plain


@torch.no_grad()
def test_what_has_to_stay_is_named_with_its_reason_and_what_cannot_be_shifted_is_scaled() -> None:
    graph = zoo("odd")
    x, before = images_for(graph), outputs_of_norms(graph, images_for(graph))
    assert before.keys() == {"halved", "padded_rows"}
    for step in (SqB(images=4, alphas=(0.5,)), SmoothQuant(images=4), FoldNorms()):
        run = run_on(graph)
        step.apply(run)
        assert distance(run.student(x), graph(x)) < 1e-5
        told = {w.message.split("'")[1]: w for w in run.events.warnings}
        assert "alone" not in told  # no product reads it
        assert told["two_readers"].name == told["tied"].name == "rewrite-skipped"
        assert "which reads 'layer_norm" in told["two_readers"].message
        assert "'fc2.weight' is shared with another operation" in told["tied"].message
        if not isinstance(step, SmoothQuant):
            assert told["halved"].name == told["padded_rows"].name == "shift-skipped"
            assert "multiplies by a number" in told["halved"].message
            assert "adds zeros" in told["padded_rows"].message
            assert len(told) == 4
        after, tensors = outputs_of_norms(run.student, x), tensors_of(run.student)
        for name in ("two_readers", "tied"):
            assert torch.equal(tensors[f"{name}.weight"], tensors_of(graph)[f"{name}.weight"])
        if not isinstance(step, SqB):
            assert not any(torch.allclose(after[name], before[name], atol=1e-4) for name in before)


@torch.no_grad()
def test_an_input_that_can_take_neither_noise_nor_factors_is_named_with_its_reason() -> None:
    for step, warning in ((STEPS["add_noise"], "noise-skipped"), (STEPS["smooth"], "smooth-skipped")):
        run = run_on(zoo("odd"))
        step.apply(run)
        told = {w.message.split("'")[1]: w for w in run.events.warnings}
        assert {"fc2/input", "fc2/input.2"} <= told.keys()
        assert told["fc2/input"].name == warning
        assert "'fc2.weight' is shared with another operation" in told["fc2/input"].message


@torch.no_grad()
def test_smooth_logs_why_it_passes_over_what_not_one_linear_reads(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = dict[str, str]()

    def log(kind: str, **facts: Any) -> None:
        said.update({facts["site"]: facts["reason"]} if kind == "rewrite-skipped" else {})

    for graph in (captured("clip"), zoo("maps")):
        run = run_on(graph)
        monkeypatch.setattr(run.events, "log", log)
        STEPS["smooth"].apply(run)
    assert "several operations read it" in said.values() and said["up/input"] == "'conv_transpose2d' is no linear"


@torch.no_grad()
def test_values_that_are_not_finite_leave_the_weights_as_they_are() -> None:
    graph = zoo("odd")
    for step in (SmoothQuant(images=4), SqB(images=4), AddNoise(images=4), Smooth(images=4)):
        run, before = run_on(graph), tensors_of(graph)
        run.images_NCHW = torch.full_like(run.images_NCHW, float("nan"))
        step.apply(run)
        assert all(torch.equal(new, before[key]) for key, new in tensors_of(run.student).items())


@torch.no_grad()
def test_dead_channels_are_left_alone() -> None:
    graph = zoo("odd").clone()
    dead = dict(graph.module.named_parameters())
    dead["padded_rows.weight"][:3], dead["padded_rows.bias"][1:4], dead["fc5.weight"][:, 5] = 0, 0, 0
    x = images_for(graph)
    for step in STEPS.values():
        run = run_on(graph)
        step.apply(run)
        assert distance(run.student(100 * x), graph(100 * x)) < 1e-5
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(run.student).values())

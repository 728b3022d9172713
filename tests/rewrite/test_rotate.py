"""A rotation changes every stored channel and no output; what it cannot turn stays and is named."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from small_models import ZOO, ClipTower, lively, zoo
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert, SiteFormat
from vitq.errors import GraphError, RecipeError
from vitq.graph import Graph, Role, capture
from vitq.graph.ops import NORM, aten, is_op
from vitq.graph.serialize import require_savable
from vitq.quantizers import Granularity, Quantizer
from vitq.recipes import load_recipe
from vitq.rewrite import Rotate, TransferScales
from vitq.run.checkpoints import Checkpoints
from vitq.run.pipeline import apply_steps
from vitq.run.run import Run

TURNED = {
    ("vit", "ones"): (4, 1),
    ("deit", "ones"): (4, 1),
    ("dinov2", "ones"): (4, 1),
    ("swin", "ones"): (6, 1),
    ("bare swin", "ones"): (6, 2),
    ("clip", "ones"): (2, 0),
    ("vit", "hadamard"): (4, 1),
    ("deit", "hadamard"): (4, 1),
    ("dinov2", "hadamard"): (4, 1),
    ("merging", "ones"): (0, 1),
    ("factor", "ones"): (0, 1),
    ("bare", "ones"): (0, 1),
    ("mixed", "ones"): (0, 1),
    ("rms", "hadamard"): (0, 1),
    ("rms", "ones"): (0, 1),
}
"""How many pairs of heads and how many residual streams are turned. Swin's first stage and CLIP begin with a norm."""


class Rms(nn.Module):
    """A residual branch behind an RMS norm; with ``mixed`` a layer norm at the end."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        self.stem, self.fc, self.head = nn.Linear(32, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm, self.last = nn.RMSNorm(8, eps=1e-6), nn.LayerNorm(8) if mixed else nn.RMSNorm(8, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x.flatten(1, 2))
        return self.head(self.last(y + self.fc(self.norm(y)))).mean(1)


class Plain(nn.Module):
    """A residual branch behind a layer norm of ``width`` channels, and a norm of ``merged`` positions, or none."""

    def __init__(self, width: int = 8, merged: int = 1, bare: bool = False, factor: float = 1) -> None:
        super().__init__()
        self.merged, self.factor = merged, factor
        self.stem, self.fc, self.head = nn.Linear(32, width), nn.Linear(width, width), nn.Linear(merged * width, 3)
        self.norm, self.last = nn.LayerNorm(width), nn.Identity() if bare else nn.LayerNorm(merged * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x.flatten(1, 2))
        y = y + self.fc(self.norm(y) if self.factor == 1 else self.factor * self.norm(y))
        return self.head(self.last(torch.cat((y[:, ::2], y[:, 1::2]), -1) if self.merged > 1 else y)).mean(1)


class Pair(nn.Module):
    """``Plain`` with a second output: the first one's squares, a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = Plain()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.plain(x)
        return {"logits": y, "squares": 100 * y.square()}


class Transposed(nn.Module):
    """A residual branch of a transposed convolution, whose weight has its input channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.head = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.head(y + self.up(y)).mean((2, 3))


class Cosine(nn.Module):
    """Attention of two heads that norms its query."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(1, 2)
        q, k, v = (f(y).unflatten(-1, (2, 16)).transpose(1, 2) for f in (self.q, self.k, self.v))
        z = (self.norm(q) @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(z.transpose(1, 2).flatten(2)).mean(1)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "clip": ClipTower,
    "rms": Rms,
    "mixed": lambda: Rms(mixed=True),
    "plain": Plain,
    "pair": Pair,
    "bare": lambda: Plain(bare=True),
    "merging": lambda: Plain(merged=2),
    "factor": lambda: Plain(factor=0.5),
    "transposed": Transposed,
    "cosine": Cosine,
    "odd": lambda: Plain(width=9),
}


@cache
def captured(name: str) -> tuple[Graph, torch.Tensor]:
    if name in ZOO:
        size, model = ZOO[name][0], zoo(name)
    else:
        torch.manual_seed(0)
        size, model = (24, bare_swin()) if name == "bare swin" else (32, lively(OTHERS[name]()))
    x_NCHW = torch.randn(10, 3, size, size, generator=torch.Generator().manual_seed(3))
    return capture(model, x_NCHW[:2]), x_NCHW


def bare_swin() -> nn.Module:
    """Return a Swin whose patches have no norm."""
    model: Any = zoo("swin")
    model.patch_embed.norm = nn.Identity()
    return model


def run_of(name: str, *, double: bool = False) -> Run:
    graph, x_NCHW = captured(name)
    teacher = graph.clone()
    if double:
        teacher.module.double()
        x_NCHW = x_NCHW.double()
    return Run(teacher=teacher, student=teacher.clone(), images_NCHW=x_NCHW, bits=Bits.parse("w4a4"))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def turned(run: Run, **options: Any) -> list[Role | None]:
    """Rotate and return the role of every site that was turned, None for a stream."""
    done = Rotate(choose=False, **options)._turn(run)
    return [run.student.sites[name].role if name in run.student.sites else None for name in done]


@torch.no_grad()
@pytest.mark.parametrize(("name", "residual"), TURNED)
def test_outputs_stay_and_weights_change(name: str, residual: Any) -> None:
    for double, tolerance in ((True, 1e-10), (False, 1e-5)):
        run = run_of(name, double=double)
        before, x = run.teacher, run.images_NCHW
        expected, stored = before(x), {path: t.clone() for path, t in before.module.state_dict().items()}
        done = turned(run, residual=residual)
        heads = sum(role is not None for role in done)
        assert (heads, len(done) - heads) == TURNED[name, residual]
        assert distance(run.student(x), expected) < tolerance
        assert distance(run.teacher(x), expected) < tolerance
        assert run.teacher is not before
        assert all(torch.equal(t, stored[path]) for path, t in before.module.state_dict().items())
        after = run.student.module.state_dict()
        assert any(path.endswith("weight") and not torch.equal(t, stored[path]) for path, t in after.items())


@torch.no_grad()
@pytest.mark.parametrize("residual", ["ones", "hadamard"])
def test_teacher_and_student_agree_at_every_cut(residual: Any) -> None:
    run = run_of("dinov2", double=True)
    old, x = run.teacher, run.images_NCHW[:2]
    turned(run, residual=residual)
    cuts = [cut for cut in run.teacher.cuts[1:] if cut in {n.name for n in old.module.graph.nodes}]
    for cut in cuts:
        teacher, student = (graph.segment(graph.cuts[0], cut)(x) for graph in (run.teacher, run.student))
        assert torch.equal(teacher, student)
    first = run.student.spans("block")[1].end
    assert distance(run.student.segment(old.cuts[0], first)(x), old.segment(old.cuts[0], first)(x)) > 1e-2


def test_a_hadamard_leaves_no_layer_norm_on_the_stream_and_ones_keep_all() -> None:
    for residual, kind in (("hadamard", aten.rms_norm.default), ("ones", aten.layer_norm.default)):
        run = run_of("vit")
        turned(run, heads=False, residual=residual)
        norms = [node for node in run.student.module.graph.nodes if is_op(node, NORM)]
        assert norms and all(node.target is kind for node in norms)
        require_savable(run.student.module)


@pytest.mark.parametrize(
    ("name", "residual", "reason"),
    [
        ("swin", "ones", "norm whose scale and bias stand on the stream"),
        ("clip", "hadamard", "norm whose scale and bias stand on the stream"),
        ("bare", "hadamard", "'linear_2' reads it without a norm"),
        ("mixed", "hadamard", "'rms_norm' is an RMS norm beside layer norms"),
        ("transposed", "ones", "'conv_transpose2d' (aten.conv_transpose2d.input) is"),
        ("odd", "ones", "9 wide: no Hadamard matrix divides that"),
        ("bare swin", "hadamard", "has a bias that cannot pass the padding or factor behind it"),
        ("factor", "hadamard", "'layer_norm' has a bias that cannot pass"),
        ("merging", "hadamard", "'layer_norm_1' takes several positions together"),
    ],
)
@torch.no_grad()
def test_a_stream_that_cannot_be_turned_stays_and_is_named(name: str, residual: Any, reason: str) -> None:
    run = run_of(name)
    expected = run.teacher(run.images_NCHW)
    turned(run, heads=False, residual=residual)
    told = [message for kind, message in run.events.warnings if kind == "rotate-skipped"]
    assert any(reason in message and "the residual stream at '" in message for message in told), told
    assert distance(run.student(run.images_NCHW), expected) < 1e-5


def test_heads_that_cannot_be_turned_are_counted_and_named() -> None:
    run = run_of("cosine")
    assert turned(run, residual="none") == [Role.VALUE]
    (told,) = [message for _, message in run.events.warnings]
    assert told.startswith("heads of 1 of 1 query tensors stay as they are; 'matmul/query': 'layer_norm', which")


def test_another_seed_draws_another_rotation_and_the_same_seed_the_same() -> None:
    weights = []
    for seed in (0, 0, 1):
        run = run_of("vit")
        run.seed = seed
        turned(run)
        weights.append(run.student.module.state_dict()["blocks.0.attn.qkv.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2])


CHANNEL = SiteFormat(granularity=Granularity.CHANNEL)
SEARCH: dict[str, Any] = {"images": 4, "weights": "minmax", "activations": "minmax"}
QUICK = (Insert(), Calibrate(**SEARCH))


@torch.no_grad()
def test_scales_are_transferred_in_the_rotated_basis() -> None:
    run = run_of("vit")
    turned(run)
    for step in (Insert(post_norm=CHANNEL), Calibrate(**SEARCH)):
        step.apply(run)
    TransferScales().apply(run)
    assert all("site 'head/input'" in message for _, message in run.events.warnings)
    layers = [f"blocks.{i}.{layer}/input" for i in (0, 1) for layer in ("attn.qkv", "mlp.fc1")]
    quantizers = [run.student.quantizers[layer] for layer in layers]
    assert all(isinstance(q, Quantizer) and q.format.granularity == Granularity.TENSOR for q in quantizers)
    assert bool((run.student.module.state_dict()["blocks.1.norm2.weight"] != 1).any())
    bare = run.student.clone()
    for name in list(bare.quantizers):
        bare.remove(name)
    assert distance(bare(run.images_NCHW), run.teacher(run.images_NCHW)) < 1e-5


@torch.no_grad()
def test_what_is_chosen_has_the_least_error_on_images_that_no_trial_saw() -> None:
    errors = {}
    for heads in (False, True):
        for residual in ("none", "ones"):
            run = run_of("vit")
            target = run.teacher(run.images_NCHW[-2:])
            run.images_NCHW = run.images_NCHW[:-2]
            run.stage = "00-rotate"
            turned(run, heads=heads, residual=residual)
            for step in QUICK:
                step.apply(run)
            output = run.student(captured("vit")[1][-2:])
            errors[heads, residual] = float((output - target).square().mean())
    least = min(errors, key=errors.__getitem__)
    run = run_of("vit")
    apply_steps(run, [Rotate(), *QUICK])
    alone = run_of("vit")
    apply_steps(alone, [Rotate(heads=least[0], residual=least[1], choose=False), *QUICK])
    assert torch.equal(run.student(run.images_NCHW), alone.student(run.images_NCHW))


@torch.no_grad()
def test_every_output_counts_as_much_in_a_choice() -> None:
    run = run_of("pair")
    x_NCHW, target = run.images_NCHW[-2:], run.teacher(run.images_NCHW[-2:])
    alone = run_of("pair")
    alone.images_NCHW = alone.images_NCHW[:-2]
    apply_steps(alone, [Rotate(heads=False, residual="none", choose=False), *QUICK])
    output = alone.student(x_NCHW)
    wanted = [float((output[name] - y).square().mean() / y.square().mean()) for name, y in target.items()]
    memory = Checkpoints()
    run.checkpoints, kept = memory, dict[str, Any]()
    memory.save = lambda key, tensors, facts=None: kept.update({key: facts})  # type: ignore[method-assign]
    apply_steps(run, [Rotate(), *QUICK])
    assert kept["00-rotate"]["errors"][0] == pytest.approx(sum(wanted) / 2)


def test_a_choice_is_kept_for_a_resumed_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for resume in (False, True):
        run = run_of("vit")
        run.checkpoints = Checkpoints(tmp_path / "run", {}, resume=resume)
        apply_steps(run, [Rotate(), *QUICK])
        outputs.append(run.student(run.images_NCHW))
        monkeypatch.setattr(Rotate, "_error", None)
    assert torch.equal(*outputs)


def test_a_choice_needs_images_and_something_to_measure() -> None:
    run = run_of("plain")
    with pytest.raises(RecipeError, match="step 'rotate': choose needs 'insert' and 'calibrate' behind it"):
        apply_steps(run, [Rotate()])
    run.images_NCHW = run.images_NCHW[:4]
    with pytest.raises(RecipeError, match="choose needs at least 5 calibration images"):
        apply_steps(run, [Rotate(), *QUICK])


def test_it_stands_before_insert() -> None:
    run = run_of("plain")
    Insert().apply(run)
    with pytest.raises(GraphError, match="put it before 'insert'"):
        Rotate().apply(run)


def test_a_recipe_puts_it_first(tmp_path: Any) -> None:
    path = tmp_path / "rotated.yaml"
    steps = "steps:\n  - smooth: remove\n  - rotate: {residual: hadamard}\n  - smooth\n"
    path.write_text(f"name: rotated\nsummary: s\nsource: s\nextends: repq\n{steps}", encoding="utf-8")
    recipe = load_recipe(path)
    names = ["rotate", "smooth", "insert", "calibrate", "transfer_scales", "calibrate"]
    assert [step.step_name for step in recipe.steps] == names
    written = recipe.to_dict()["steps"][0]
    assert written == {"rotate": {"heads": True, "residual": "hadamard", "choose": True, "held_out": 64}}


def test_a_rehearsal_stops_before_the_first_step_that_trains() -> None:
    assert [step.trains for step in load_recipe("mgrq").steps] == [False] * 5 + [True]

"""Scale transfer keeps the student's function; where it cannot, it says so and goes per tensor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import lively_norms
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert, SiteFormat
from vitq.graph import Graph, Role, capture
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.quantizers import Granularity, Quantizer
from vitq.rewrite import TransferScales
from vitq.run.run import Run

CHANNEL = SiteFormat(granularity=Granularity.CHANNEL)
MSE: dict[str, Any] = {"images": 4, "weights": "mse", "activations": "mse"}


def timm_model(name: str, **options: Any) -> nn.Module:
    ensure_torchvision()
    import timm

    model: nn.Module = timm.create_model(name, num_classes=10, **options)
    return model


VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
SWIN: dict[str, Any] = {"window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4)}


class ThreeReaders(nn.Module):
    """One norm, three linears that read it (as in Hugging Face attention), one of them without a bias."""

    def __init__(self, extra: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(32, 16)
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v = nn.Linear(16, 8), nn.Linear(16, 8, bias=False), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.stem(x.flatten(1, 2)))
        z = self.q(y) * self.k(y) + self.v(y)
        return self.head(z + y[..., :8] if self.extra else z).mean(1)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (lambda: timm_model("vit_tiny_patch16_224", **VIT), 32),
    "swin": (lambda: timm_model("swin_tiny_patch4_window7_224", img_size=32, **SWIN), 32),
    "three readers": (ThreeReaders, 32),
}


def prepared(model: nn.Module, size: int, bits: str = "w4a4") -> Run:
    torch.manual_seed(0)
    x_NCHW = torch.randn(6, 3, size, size)
    graph = capture(model, x_NCHW[:2])  # as it is, since other tests capture it too
    state = lively_norms(model).state_dict()
    for path, parameter in graph.module.named_parameters():
        parameter.copy_(state.get(path, parameter))
    run = Run(teacher=graph, student=graph.clone(), images_NCHW=x_NCHW, bits=Bits.parse(bits))
    Insert(post_norm=CHANNEL).apply(run)
    Calibrate(**MSE).apply(run)
    return run


def floating(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = graph.segment(graph.cuts[0], graph.cuts[-1], floating=True)(x)
    return result


def codes(run: Run, graph: Graph, site: str, x: torch.Tensor) -> torch.Tensor:
    quantizer = run.student.quantizers[site]
    assert isinstance(quantizer, Quantizer)
    return quantizer.encode(graph.segment(graph.cuts[0], graph.sites[site].node, floating=True)(x)).float()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_transfer_keeps_the_function_and_the_codes(name: str) -> None:
    torch.manual_seed(0)
    build, size = MODELS[name]
    run = prepared(build(), size)
    x, student = run.images_NCHW, run.student
    before = floating(student, x)
    post_norm = [site.name for site in student.sites.values() if site.role is Role.POST_NORM]
    old_codes = {site: codes(run, student, site, x) for site in post_norm}
    original = {site.name: student.parameter(site.node)[1].clone() for site in student.sites.values() if site.is_weight}
    TransferScales().apply(run)
    after = floating(student, x)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-5
    moved = [s for s in post_norm if not any(f"'{s}'" in w.message for w in run.events.warnings)]
    assert len(moved) >= max(len(post_norm) - 1, 1)
    for site in moved:
        quantizer = student.quantizers[site]
        assert isinstance(quantizer, Quantizer) and quantizer.axis is None and quantizer.calibrated
        assert float((codes(run, student, site, x) - old_codes[site]).abs().gt(0).float().mean()) < 1e-3
        for consumer in student.sites[site].consumers:
            weight = next(s for s in student.sites.values() if s.is_weight and consumer in s.consumers)
            assert not torch.equal(student.parameter(weight.node)[1], original[weight.name])
            fresh = student.quantizers[weight.name]
            assert isinstance(fresh, Quantizer) and not fresh.calibrated
    Calibrate(**MSE, only_uncalibrated=True).apply(run)
    assert bool(torch.isfinite(student(x)).all())
    assert torch.equal(floating(run.teacher, x), run.teacher(x))


@torch.no_grad()
def test_activation_quantization_after_transfer_equals_channel_wise_quantization() -> None:
    torch.manual_seed(0)
    run = prepared(timm_model("swin_tiny_patch4_window7_224", img_size=32, **SWIN), 32)
    for site in [s.name for s in run.student.sites.values() if s.is_weight]:
        run.student.remove(site)
    before = run.student(run.images_NCHW)
    TransferScales().apply(run)
    assert not run.events.warnings
    after = run.student(run.images_NCHW)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-2


@torch.no_grad()
def test_padding_between_norm_and_linear_is_refused_by_name() -> None:
    torch.manual_seed(0)
    one_stage = {**SWIN, "depths": (1,), "num_heads": (2,)}
    run = prepared(timm_model("swin_tiny_patch4_window7_224", img_size=56, **one_stage), 56)
    before = floating(run.student, run.images_NCHW)
    TransferScales().apply(run)
    skipped = {w.message.split("'")[1] for w in run.events.warnings if w.name == "transfer-skipped"}
    padded = {name for name in run.student.sites if name.endswith("qkv/input")}
    assert skipped == padded
    for name in skipped:
        quantizer = run.student.quantizers[name]
        assert isinstance(quantizer, Quantizer) and quantizer.axis is None and not quantizer.calibrated
    after = floating(run.student, run.images_NCHW)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-5


def test_a_norm_that_others_read_too_is_refused() -> None:
    run = prepared(ThreeReaders(extra=True), 32)
    before = [p.clone() for p in run.student.module.parameters()]
    TransferScales().apply(run)
    assert any("reads 'layer_norm' too" in w.message for w in run.events.warnings)
    weights = [p for p in run.student.module.parameters() if p.ndim]
    assert all(any(torch.equal(p, q) for q in before) for p in weights if p.ndim == 2)


@torch.no_grad()
def test_a_norm_without_parameters_and_a_linear_without_bias_get_them() -> None:
    torch.manual_seed(0)
    model = ThreeReaders()
    model.norm = nn.LayerNorm(16, elementwise_affine=False)
    run = prepared_plain(model)
    before = floating(run.student, run.images_NCHW)
    TransferScales().apply(run)
    assert not run.events.warnings
    after = floating(run.student, run.images_NCHW)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-5
    assert floating(run.student.clone(), run.images_NCHW).equal(after)


def prepared_plain(model: nn.Module) -> Run:
    x_NCHW = torch.randn(6, 3, 32, 32)
    graph = capture(model, x_NCHW[:2])
    run = Run(teacher=graph, student=graph.clone(), images_NCHW=x_NCHW, bits=Bits.parse("w4a4"))
    Insert(post_norm=CHANNEL).apply(run)
    Calibrate(**MSE).apply(run)
    return run


def test_tokens_with_parameters_of_their_own_are_calibrated_behind_the_transfer() -> None:
    run = prepared(MODELS["vit"][0](), MODELS["vit"][1])
    site = next(s.name for s in run.student.sites.values() if s.role is Role.POST_NORM)
    old = run.student.quantizers[site]
    assert isinstance(old, Quantizer)
    known = old.parameters_dict()
    old.keep_apart(torch.tensor([0])).set_parameters(**known)
    TransferScales().apply(run)
    done = {name for name, q in run.student.quantizers.items() if isinstance(q, Quantizer) and q.calibrated}
    assert site not in done
    Calibrate(**MSE, only_uncalibrated=True).apply(run)
    assert bool(torch.isfinite(run.student(run.images_NCHW)).all())

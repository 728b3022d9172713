"""Capture: what it refuses, what it folds, what it leaves alone."""

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import vitq.graph
from vitq.errors import ModelError
from vitq.graph import Role, capture
from vitq.graph.capture import without_autocast
from vitq.models.torchvision_shim import ensure_torchvision

pytestmark = pytest.mark.usefixtures("captured_anew")


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(x), x


class BranchOnValue(TwoOutputs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if x.sum() > 0 else x


class BranchOnBatch(TwoOutputs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if len(x) == 2 else x


class LengthOfBatch(TwoOutputs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + self.fc.bias.tile([len(x), 1]) * len(x.shape)


class Constant(TwoOutputs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc.weight * 2


class Nothing(TwoOutputs):
    def forward(self, x: torch.Tensor) -> None:
        return None


class Unfinished(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class DictOutput(TwoOutputs):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.fc(x)}


class Stateful(nn.Module):
    """Count its calls, scale its input in place, ask for its device: effects that a graph must not keep."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = self.fc(x.clone().mul_(2))
        return y + torch.arange(x.shape[0], device=x.device).to(y.dtype)[:, None]


class Positions(nn.Module):
    """Compute a position bias from constants by a small network, as relative-position networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.position = nn.Linear(1, 4)
        self.register_buffer("grid", torch.linspace(-1, 1, 3)[:, None])

    def forward(self, x_BN4: torch.Tensor) -> torch.Tensor:
        return self.fc(x_BN4) + self.position(self.grid)


class AnyArguments(TwoOutputs):
    def forward(self, *args: torch.Tensor, **options: object) -> torch.Tensor:
        return self.fc(*args)


class OptionalArguments(TwoOutputs):
    def forward(self, x: torch.Tensor, mask: None = None, *rest: object, flag: bool = False) -> torch.Tensor:
        return self.fc(x)


class KeywordOnly(TwoOutputs):
    def forward(self, *, pixels: torch.Tensor) -> torch.Tensor:
        return self.fc(pixels)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (KeywordOnly(), r"KeywordOnly\.forward\(\*, pixels.* cannot be called with one image tensor"),
        (BranchOnValue(), "cannot capture BranchOnValue"),
        (BranchOnBatch(), "cannot capture BranchOnBatch"),
        (Constant(), "does not depend on its input"),
        (Nothing(), "Nothing"),
        (Unfinished(), "NotImplementedError"),
    ],
)
def test_unusable_models_are_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        capture(model, torch.randn(2, 4))


def test_what_is_switched_off_or_unused_is_not_random() -> None:
    class Idle(TwoOutputs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand_like(x)
            y = nn.functional.dropout(nn.functional.dropout(self.fc(x), 0.5, self.training), 0.0)
            return nn.functional.scaled_dot_product_attention(*[y[:, None]] * 3)

    assert capture(Idle(), torch.randn(2, 4))(torch.randn(3, 4)).shape == (3, 1, 4)


def test_a_dict_with_one_tensor_is_one_output() -> None:
    model, x = DictOutput(), torch.randn(3, 4)
    assert torch.equal(capture(model, x)(x), model(x)["logits"])


@pytest.mark.parametrize("kind", [AnyArguments, OptionalArguments])
def test_the_image_may_come_in_any_argument(kind: type[TwoOutputs]) -> None:
    model = kind()
    graph = capture(model, torch.randn(2, 4))
    x = torch.randn(5, 4)
    assert torch.equal(graph(x), model(x))


def test_the_callers_default_type_does_not_enter_the_graph() -> None:
    class Grid(TwoOutputs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x + torch.linspace(0, 1, 4))

    torch.set_default_dtype(torch.float64)
    try:
        graph = capture(Grid().float(), torch.randn(2, 4, dtype=torch.float32))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert graph(torch.randn(3, 4)).dtype == torch.float32


@pytest.mark.parametrize("example_batch", [1, 2, 7])
def test_the_batch_of_the_example_does_not_matter(example_batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(36, 2))
    graph = capture(model, torch.randn(example_batch, 3, 4, 4))
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 4, 4)
        assert torch.equal(graph(x), model(x))


def test_the_callers_model_is_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 2))
    before = copy.deepcopy(model.state_dict())
    graph = capture(model, torch.randn(2, 3, 4, 4))
    with torch.no_grad():
        for parameter in graph.module.parameters():
            parameter.zero_()
    assert model.training and all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(p.requires_grad for p in graph.module.parameters())


def test_effects_are_dropped() -> None:
    model = Stateful()
    graph = capture(model, torch.randn(2, 4))
    x = torch.randn(3, 4)
    kept = x.clone()
    assert torch.equal(graph(x), graph(x))
    assert torch.equal(x, kept)
    assert torch.equal(graph(x), model(x))
    called = {str(n.target) for n in graph.module.graph.nodes if n.op == "call_function"}
    assert not any("assert" in name or "copy_" in name or "mul_" in name for name in called)


def test_what_depends_on_no_image_is_folded() -> None:
    model, x = Positions(), torch.randn(2, 3, 4)
    graph = capture(model, x)
    assert torch.equal(graph(x), model(x))
    assert list(graph.sites) == ["fc/input", "fc/weight"]
    assert not any("position" in name for name in graph.module.state_dict())


def test_moving_a_graph_moves_the_tensors_it_makes() -> None:
    graph = capture(Stateful(), torch.randn(2, 4))
    graph.to(torch.device("meta"))
    assert graph(torch.empty(5, 4, device="meta")).shape == (5, 4)


def test_a_hugging_face_classifier() -> None:
    ensure_torchvision()
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        num_labels=4,
    )
    model = transformers.ViTForImageClassification(config).eval()
    x = torch.randn(3, 3, 32, 32)
    graph = capture(model, x)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x).logits, rtol=1e-5, atol=1e-6)
        y = x
        for span in graph.spans("unit"):
            y = graph.segment(span.start, span.end)(y)
        assert torch.equal(y, graph(x))
    assert len(graph.spans("unit")) == 2 + 2 * 2
    assert len(graph.spans("block")) == 2 + 2
    shared = [s for s in graph.sites.values() if len(s.consumers) == 3]
    assert [s.role for s in shared] == [Role.POST_NORM] * 2
    assert all(sum(s.role is role for s in graph.sites.values()) == 2 for role in (Role.QUERY, Role.KEY, Role.VALUE))


def test_a_torchvision_classifier_has_units_and_blocks() -> None:
    ensure_torchvision()
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    graph = capture(model, torch.randn(2, 3, 32, 32))
    assert len(graph.spans("block")) == 2 + 2
    assert len(graph.spans("unit")) == 2 + 2 * 2


def test_no_file_of_the_graph_names_a_model_family() -> None:
    family = re.compile(
        r"swin|deit|beit|\beva(?:02)?\b|dino|clip|levit|maxvit|mobilevit|\bpvt|cait|tiny_?vit|hiera|convnext|timm",
        re.IGNORECASE,
    )
    folder = Path(vitq.graph.__file__).parent
    for path in folder.glob("*.py"):
        code = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text(encoding="utf-8"))
        assert not family.search(code), f"{path.name} names a model family: {family.search(code)}"


def test_the_length_of_the_batch_is_its_size() -> None:
    model = LengthOfBatch()
    graph = capture(model, torch.randn(2, 4))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(graph(x), model(x))
    assert "len" not in globals()


class Autocast(nn.Module):
    """Turns on bfloat16 itself, as models do that were trained with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BK: torch.Tensor = self.model(x_BCHW)
        return logits_BK


def test_a_model_that_turns_on_autocast_is_captured_in_float32(one_block: nn.Module) -> None:
    x_NCHW = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Autocast(one_block)
    with torch.no_grad():
        assert model(x_NCHW).dtype is torch.bfloat16
        assert torch.equal(capture(model, x_NCHW)(x_NCHW), one_block(x_NCHW))
        assert model(x_NCHW).dtype is torch.bfloat16
    quantized = vitq.quantize(model, x_NCHW, recipe="rtn", bits="w8a8", progress=False)
    torch.testing.assert_close(quantized(x_NCHW), one_block(x_NCHW), rtol=0.1, atol=0.05)
    (told,) = (text for name, text in quantized.metrics.warnings if name == "autocast")
    assert "(bfloat16)" in told


def test_another_thread_keeps_its_autocast(one_block: nn.Module) -> None:
    x_NCHW = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with without_autocast(), ThreadPoolExecutor(1) as pool, torch.no_grad():
        assert Autocast(one_block)(x_NCHW).dtype is torch.float32
        assert pool.submit(Autocast(one_block), x_NCHW).result(timeout=60).dtype is torch.bfloat16

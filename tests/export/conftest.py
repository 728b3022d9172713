"""Models, their quantized versions and their files, made once: nearly all the time is that of torch's exporter."""

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

import vitq  # noqa: E402


class Plain(nn.Module):
    """A vision transformer without its attention, at a third of the time: x_BCHW of 3x32x32 to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), nn.Linear(24, 10)
        self.fc1, self.fc2 = nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.fc2(nn.functional.gelu(self.fc1(self.norm(x_BTC))))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return logits_BK


class Attending(nn.Module):
    """A vision transformer without its MLP, for what is about attention alone: x_BCHW of 3x32x32 to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), nn.Linear(24, 10)
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x_BTC)).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        y_BHTD = nn.functional.scaled_dot_product_attention(q, k, v)
        x_BTC = x_BTC + self.proj(y_BHTD.transpose(1, 2).flatten(2))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return logits_BK


@pytest.fixture(scope="session", autouse=True)
def _one_library(one_library_of_operators: None) -> Iterator[None]:
    """Every test here writes files: equal graphs are written once, what a file says about itself is its own."""
    written: dict[Any, bytes] = {}
    right = _module("vitq.export.build").build

    def build(graph: Any, weights: Any, example: Any, about: dict[str, str], *how: Any, **named: Any) -> bytes:
        key = (_content(graph, weights), tuple(example.shape), str((how, named)))
        if key not in written:
            written[key] = right(graph, weights, example, {}, *how, **named)
        proto = onnx.load_from_string(written[key])
        onnx.helper.set_model_props(proto, dict(sorted(about.items())))  # as build does
        content: bytes = proto.SerializeToString()
        return content

    with pytest.MonkeyPatch.context() as patch:
        for reader in ("vitq.export.export", "vitq.export.floating", "vitq.bench.bench"):
            patch.setattr(_module(reader), "build", build)
        runtimes = _module("vitq.export.runtimes")
        patch.setattr(runtimes.OnnxRuntime.__init__, "__defaults__", (1,))  # threads: a pool for each part of a
        patch.setattr(runtimes.OpenVino.__init__, "__defaults__", (1, False))  # file takes longer than the part
        yield


def _content(graph: Any, weights: dict[str, Any]) -> str:
    """Return equal texts for graphs that are equal in all that a file holds."""
    parts = [str(graph.module.graph), str(graph.sites), list(graph.quantizers), list(weights)]
    tensors = list(graph.module.state_dict().items())
    for quantizer in (*graph.quantizers.values(), *weights.values()):
        parts.append((str(quantizer.format), quantizer.axis))
        tensors += quantizer.parameters_dict().items()
    held = hashlib.sha256(str(parts).encode())
    for name, tensor in tensors:
        held.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        held.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return held.hexdigest()


class Models(dict[str, nn.Module]):
    """Makes each model when it is first asked for."""

    def __init__(self, make: dict[str, Callable[[], nn.Module]]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> nn.Module:
        torch.manual_seed(0)
        self[name] = self.make[name]()
        return self[name]


@pytest.fixture(scope="session")
def models(tiny: Callable[..., nn.Module]) -> dict[str, nn.Module]:
    def levit() -> nn.Module:
        model = tiny("levit", depth=(0, 1))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return model

    return Models(
        {
            "plain": Plain,
            "attention": Attending,
            "vit": lambda: tiny("vit", depth=1),
            "windows": lambda: tiny("swin", depths=(1,), num_heads=(2,)),
            "swinv2": lambda: tiny("swinv2"),
            "beit": lambda: tiny("beit"),
            "levit": levit,
        }
    )


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def quantized(models: dict[str, nn.Module], images: torch.Tensor) -> Callable[..., vitq.QuantizedModel]:
    """Return a function that quantizes one of ``models``, each way once; what torch captures of it is shared."""
    done: dict[str, vitq.QuantizedModel] = {}
    captured: dict[str, Any] = {}
    right = _module("vitq.run.inputs").capture_checked

    def make(model: str, bits: str, recipe: str = "rtn", overrides: Any = None, **options: Any) -> vitq.QuantizedModel:
        def capture(*source: Any) -> Any:
            if model not in captured:
                captured[model] = right(*source)
            return captured[model].clone()

        key = str((model, bits, recipe, overrides, options))
        if key not in done:
            how = {"recipe": recipe, "bits": bits, "overrides": overrides, "progress": False, **options}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_module("vitq.run.inputs"), "capture_checked", capture)
                done[key] = vitq.quantize(models[model], images, **how)
        return done[key]

    return make


@pytest.fixture(scope="session")
def exported(
    quantized: Callable[..., vitq.QuantizedModel], images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Any, Path]]:
    """Return a function that exports ``quantized(...)`` as ``export`` says, each way once: the result and its file."""
    done: dict[str, tuple[Any, Path]] = {}

    def make(*model: Any, export: dict[str, Any], file: str = "m.onnx", **options: Any) -> tuple[Any, Path]:
        key = str((model, options, export, file))
        if key not in done:
            path = tmp_path_factory.mktemp("exported") / file
            done[key] = quantized(*model, **options).export(path, images, **export), path
        return done[key]

    return make


def _module(name: str) -> Any:
    """Return a module whose package has a function of the same name."""
    importlib.import_module(name)
    return sys.modules[name]

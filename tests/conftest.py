"""What all tests share: real data where it is present, and one thread each when tests run in parallel."""

import contextlib
import copy
import functools
import gc
import hashlib
import importlib.util
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses import fake_impls

from vitq.models.torchvision_shim import ensure_torchvision

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)},
    ),
    "swinv2": (
        "swinv2_tiny_window8_256",
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4)},
    ),
    "beit": (
        "beit_base_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3},
    ),
    "levit": (
        "levit_128s",
        {"img_size": 32, "embed_dim": (32, 48), "num_heads": (2, 3), "key_dim": 8, "depth": (1, 1)},
    ),
}


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let these folders come first, one after the other: they capture the same models, so on the same worker."""
    root = Path(__file__).parent
    first = [root / "graph", root / "rewrite", root / "integer"]
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in first))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported out of the garbage collector's sight, and call it less often: graphs are many objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_sessionfinish() -> None:
    """Leave what the tests have made out of pytest's last garbage collections, which take seconds otherwise."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., nn.Module]:
    """Return a function that makes a small model of TINY: x_BCHW of 3x32x32 to 10 logits, always the same weights."""

    def make(family: str, **options: Any) -> nn.Module:
        ensure_torchvision()
        import timm

        name, own = TINY[family]
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, num_classes=10, **{**own, **options})
        return model

    return make


class Small(nn.Module):
    """The least that looks like a vision transformer: patches, one residual linear behind a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.fc(self.norm(x_BTC))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return logits_BK


class OneBlock(nn.Module):
    """Patches, one pre-norm attention of two heads and MLP with their sums, a head: something of every role."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.fc1, self.fc2, self.head = nn.Linear(8, 24), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(x_BTC)).reshape(*x_BTC.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x_BTC = x_BTC + ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x_BTC = x_BTC + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x_BTC))))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return logits_BK


@pytest.fixture(scope="session")
def one_block() -> nn.Module:
    """Return a model of ``OneBlock``, x_BCHW of 3x8x8 to 5 logits, always of the same weights; not to be changed."""
    torch.manual_seed(0)
    return OneBlock()


@pytest.fixture
def small() -> nn.Module:
    """Return a model of ``Small``, x_BCHW of 3x8x8 to 5 logits, always of the same weights."""
    torch.manual_seed(0)
    return Small()


@pytest.fixture(scope="session")
def small_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a very small model, of images 3x8x8 and 5 classes; to be copied, not changed."""
    import vitq

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("artifact") / "small"
    vitq.quantize(Small(), torch.randn(16, 3, 8, 8), recipe="rtn", bits="w4a4", out=folder, progress=False)
    return folder


class _Content(pickle.Pickler):
    """Writes what a model is made of: classes by name, attributes by value, tensors by their bytes."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        values = hashlib.sha256(obj.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return str, (f"{type(obj)} {obj.dtype} {tuple(obj.shape)} {obj.stride()} {obj.requires_grad} {values}",)


class Captures:
    """Captures equal models once, and gives a copy of the module each time.

    ``torch.export`` takes seconds even for a tiny model. Where ``anew`` is set, it works each time.
    """

    def __init__(self) -> None:
        self.anew = False
        self.known: dict[tuple[str, str], fx.GraphModule] = {}

    def once(self, make: Callable[[nn.Module, torch.Tensor], fx.GraphModule]) -> Callable[..., fx.GraphModule]:
        """Return what stands for ``make``, a step of capturing."""

        def made(model: nn.Module, example_BCHW: torch.Tensor) -> fx.GraphModule:
            key = None if self.anew else self.key(model, example_BCHW)
            if key is None:
                return make(model, example_BCHW)
            if (make.__name__, key) not in self.known:
                with torch.enable_grad():  # as in vitq's verbs
                    self.known[make.__name__, key] = make(model, example_BCHW)
            return copy.deepcopy(self.known[make.__name__, key])

        return made

    @staticmethod
    def key(model: nn.Module, example_BCHW: torch.Tensor) -> str | None:
        """Return equal texts for models and modes that are equal in all; None where that cannot be known."""
        modes = (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        example = (example_BCHW.shape, example_BCHW.dtype, str(example_BCHW.device), torch.get_default_dtype())
        content = io.BytesIO()
        try:
            frozen = copy.deepcopy(model).eval().requires_grad_(False)  # as it will be captured
            _Content(content).dump((frozen, str(example), modes))
        except Exception:  # a class of the test's own, or anything else that no other process could read
            return None
        return hashlib.sha256(content.getvalue()).hexdigest()


class _NoTypes:
    """Stands for ``Callable`` in annotations that torch evaluates at each call."""

    def __getitem__(self, _: Any) -> None:
        return None

    def __instancecheck__(self, instance: Any) -> bool:
        return callable(instance)


class _Kernels:
    """Stands for ``_override_composite_implicit_decomp``: makes the two dozen kernels of each operator once.

    torch makes them anew, for 700 operators, each time that it decomposes: a quarter of the time of a small capture.
    """

    def __init__(self, right: Callable[..., Any]) -> None:
        self.right = right
        self.made: dict[Any, tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def __call__(self, decompositions: dict[Any, Any]) -> Iterator[None]:
        rules = fake_impls.op_implementations_dict
        before = {operator: (dict(operator.py_kernels), rules.get(operator)) for operator in decompositions}
        for operator, decomposition in decompositions.items():
            was, (_, rule) = self.made.get((operator, decomposition), (None, (None, None))), before[operator]
            if was[0] != before[operator]:
                with self.right({operator: decomposition}):
                    made = dict(operator.py_kernels), rules.get(operator)
                if rule is not None:  # torch forgets it, together with its own
                    rules[operator] = rule
                self.made[operator, decomposition] = before[operator], made
        try:
            for operator, decomposition in decompositions.items():
                kernels, rules[operator] = self.made[operator, decomposition][1]
                operator.py_kernels.update(kernels)
                operator._dispatch_cache.clear()
            yield
        finally:
            for operator, (kernels, _) in before.items():
                operator.py_kernels.clear()
                operator.py_kernels.update(kernels)
                operator._dispatch_cache.clear()
                rules.pop(operator, None)


def _compiled_once() -> Callable[..., CodeType]:
    """Return a ``compile`` that compiles equal texts once: copies of a graph, and its segments, have the same."""
    known: dict[str, CodeType] = {}

    def compiled(source: str, file: str, *mode: str, **options: Any) -> CodeType:
        if source not in known:
            known[source] = compile(source, file, *mode, **options)
        return known[source]

    return compiled


@pytest.fixture(scope="session", autouse=True)
def operators_listed_once() -> Iterator[None]:
    """List torch's composite operators once, and make their kernels once, instead of at each decomposition."""
    program = pytest.importorskip("torch.export.exported_program")
    tables = pytest.importorskip("torch.export.decomp_utils")
    listed: dict[tuple[str, ...], Any] = {}

    def collect(right: Callable[[], Any] = program._collect_all_valid_cia_ops) -> Any:
        libraries = tuple(torch.ops._dir)
        if libraries not in listed:
            listed[libraries] = right()
        return listed[libraries]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_collect_all_valid_cia_ops", collect)
        patch.setattr(tables, "_collect_all_valid_cia_ops", collect)
        patch.setattr(
            program, "_override_composite_implicit_decomp", _Kernels(program._override_composite_implicit_decomp)
        )
        patch.setattr(torch._ops, "Callable", _NoTypes())
        patch.setattr(fx.config, "do_not_emit_stack_traces", True, raising=False)
        patch.setattr(fx.graph_module, "compile", _compiled_once(), raising=False)
        # The cache makes small models slower to capture.
        patch.setattr(torch._dynamo.config, "fake_tensor_cache_enabled", False)
        yield


@pytest.fixture(scope="session")
def one_library_of_operators() -> Iterator[None]:
    """List the exporter's operators and decompositions once; torch does it anew for each file, a third of the time."""
    library = pytest.importorskip("onnxscript._framework_apis.torch_2_5")
    registry = pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry
    decompositions = pytest.importorskip("torch.onnx._internal.exporter._decomp")
    listed = functools.cache(registry.from_torchlib)
    tables: dict[frozenset[Any], dict[Any, Any]] = {}

    def from_torchlib(opset_version: int) -> Any:
        known = listed(opset_version)
        own = copy.copy(known)
        own.functions = {name: list(functions) for name, functions in known.functions.items()}
        return own

    def table(written: Any, right: Any = decompositions.create_onnx_friendly_decomposition_table) -> dict[Any, Any]:
        key = frozenset(written)
        if key not in tables:
            tables[key] = right(written)
        return dict(tables[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "get_torchlib_ops", functools.cache(library.get_torchlib_ops))
        patch.setattr(registry, "from_torchlib", staticmethod(from_torchlib))
        patch.setattr(decompositions, "create_onnx_friendly_decomposition_table", table)
        yield


@pytest.fixture(scope="session", autouse=True)
def captures() -> Iterator[Captures]:
    """Capture equal models once in all tests but those of capturing itself (fixture ``captured_anew``)."""
    import vitq.graph.graph

    captures = Captures()
    with pytest.MonkeyPatch.context() as patch:
        for step in ("capture_module", "opened"):
            patch.setattr(vitq.graph.graph, step, captures.once(getattr(vitq.graph.graph, step)))
        yield captures


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Return a function that loads a file of ``scripts`` by its name."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real weights and images that lies beside some checkouts; tests that want it are
    skipped elsewhere.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout: real weights and images are not part of the project")
    return folder

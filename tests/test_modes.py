"""The caller's modes: they change no result, and every verb leaves them as they were."""

import copy
import importlib
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vitq
from vitq.artifact.artifact import Artifact
from vitq.errors import CalibrationError, VitqError
from vitq.modes import LOCK, forward_modes, own_modes

QUICK = {
    "reconstruct.steps": 2,
    "reconstruct.batch": 4,
    "reconstruct.evaluation.held_out": 2,
    "reconstruct.compute.precision": "float32",
}


class Small(nn.Module):
    """One block without attention: enough to be captured, trained and run in integers, and quick."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patches(x_BCHW).flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.fc2(nn.functional.gelu(self.fc1(self.norm(x_BTC))))
        return self.head(x_BTC.mean(1))


pytestmark = pytest.mark.usefixtures("one_library_of_operators")


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return Small()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(vit: nn.Module, images: torch.Tensor) -> vitq.QuantizedModel:
    return vitq.quantize(vit, images, recipe="qdrop", bits="w4a4", overrides=QUICK, progress=False)


@contextmanager
def odd_modes() -> Iterator[None]:
    """Modes that no verb of vitq can use, all at once."""
    with ExitStack() as stack:
        for read, write, value in (
            (torch.get_default_dtype, torch.set_default_dtype, torch.float64),
            (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
            (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 1),
            (torch.get_num_threads, torch.set_num_threads, 1),
        ):
            stack.callback(write, read())  # type: ignore[operator]
            write(value)  # type: ignore[operator]
        stack.enter_context(torch.device("meta"))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(torch.inference_mode())
        yield


def state() -> tuple[Any, ...]:
    """Everything that a verb could leave otherwise."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_float32_matmul_precision(),
        torch.get_deterministic_debug_mode(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
    )


def verbs(vit: nn.Module, images: torch.Tensor, model: vitq.QuantizedModel, folder: Path) -> dict[str, Any]:
    labels = torch.zeros(len(images), dtype=torch.int64, device="cpu")
    size = {"input_size": (3, 8, 8)}
    small = {"reconstruct.choose.steps": 0, "reconstruct.choose.among": ["block"]}
    small |= {"reconstruct.choose.outlier_quantiles": [], "reconstruct.choose.held_out": 2}
    return {
        "quantize": lambda: vitq.quantize(vit, images, recipe="qdrop", bits="w4a4", overrides=QUICK, progress=False)(
            images
        ),
        "granularity": lambda: vitq.granularity(vit, images, overrides=small, progress=False).scores["block"],
        "evaluate": lambda: vitq.evaluate(vit, (images, labels), preprocessing=size, progress=False),
        "call": lambda: model(images),
        "evaluate the artifact": lambda: model.evaluate((images, labels)),
        "integer": lambda: model.integer()(images),
        "save": lambda: (model.save(folder / "run") / "model.safetensors").read_bytes(),
        "load": lambda: vitq.load(model.save(folder / "run"))(images),
        "seal": lambda: (model.save(folder / "run"), vitq.seal(folder / "run"))[1],
        "to": lambda: model.to("cpu")(images),
        "export": lambda: exported(vit, images, folder),
        "bench": lambda: benched(model, images, folder),
        "report": lambda: vitq.report(model.save(folder / "run"), out=folder / "page.html").read_bytes(),
        "diagnose": lambda: vitq.diagnose(vit, images, progress=False).to_dict(),
    }


def exported(vit: nn.Module, images: torch.Tensor, folder: Path) -> bytes:
    """Export to a target that does not run here: quick, and the whole file is built."""
    model = vitq.quantize(vit, images, recipe="rtn", bits="w4a4", target="tensorrt", progress=False)
    return model.export(folder / "m.onnx", images, target="tensorrt", limit=4, force=True).path.read_bytes()


def benched(model: vitq.QuantizedModel, images: torch.Tensor, folder: Path) -> list[Any]:
    return vitq.bench(model.save(folder / "run"), images, limit=4, progress=False)


def rows(artifacts: dict[str, Artifact], x_NCHW: torch.Tensor, **_: Any) -> list[Any]:
    """Stands for the measurement, which takes long: gives a result that modes would change."""
    torch.rand(3)
    ((name, artifact),) = artifacts.items()
    values = (artifact.graph(x_NCHW) @ torch.ones(5)).tolist()
    measured = importlib.import_module("vitq.bench.bench").Measured
    return [measured(name, "none", 0, 0, 0, {1: value}, {1: value}, None) for value in values]


VERBS = (
    "quantize", "granularity", "evaluate", "call", "evaluate the artifact", "integer", "save", "load", "seal", "to",
    "export", "bench", "report", "diagnose",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_the_callers_modes_change_no_result_and_stay_as_they_were(
    vit: nn.Module,
    images: torch.Tensor,
    model: vitq.QuantizedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    if verb in ("export", "bench"):
        pytest.importorskip("onnxscript")
        monkeypatch.setattr(importlib.import_module("vitq.bench.bench"), "bench", rows)
    run = verbs(vit, images, model, tmp_path)[verb]
    before = state()
    plain = run()
    assert state() == before
    with odd_modes():
        before = state()
        odd = run()
        assert state() == before
        if isinstance(plain, torch.Tensor):
            plain, odd = plain.tolist(), odd.tolist()
    assert odd == plain


def test_a_verb_that_fails_leaves_the_callers_modes_too(vit: nn.Module, model: vitq.QuantizedModel) -> None:
    broken = torch.full((4, 3, 8, 8), float("nan"))
    with odd_modes():
        before = state()
        with pytest.raises(VitqError):
            vitq.quantize(vit, broken, recipe="rtn", bits="w4a4", progress=False)
        with pytest.raises(VitqError):
            vitq.load("nowhere")
        with pytest.raises(VitqError):
            model(broken[:, :, :4])
        assert state() == before


def test_a_model_made_in_inference_mode_is_trained(
    vit: nn.Module, images: torch.Tensor, model: vitq.QuantizedModel
) -> None:
    with torch.inference_mode():
        made, seen = copy.deepcopy(vit), images.clone()
        got = vitq.quantize(made, seen, recipe="qdrop", bits="w4a4", overrides=QUICK, progress=False)(seen)
    assert torch.equal(got, model(images))


def test_a_forward_needs_no_lock(images: torch.Tensor, model: vitq.QuantizedModel) -> None:
    done = threading.Event()
    thread = threading.Thread(target=lambda: (model(images), done.set()))
    with LOCK:
        thread.start()
        assert done.wait(60)
    thread.join()


def test_verbs_of_two_threads_give_what_one_gives(
    vit: nn.Module, images: torch.Tensor, model: vitq.QuantizedModel
) -> None:
    results: list[torch.Tensor] = []

    def run() -> None:
        results.append(vitq.quantize(vit, images, recipe="qdrop", bits="w4a4", overrides=QUICK, progress=False)(images))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(result, model(images)) for result in results] == [True, True]


def test_random_numbers_of_a_caller_go_on_where_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    with own_modes():
        torch.manual_seed(9)
        torch.rand(7)
        random.random()
        np.random.rand()
    assert torch.rand(3).tolist() == expected


def test_a_model_that_changes_modes_changes_no_callers() -> None:
    before = state()
    with own_modes():
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
    assert state() == before


def test_modes_nest_and_survive_an_error() -> None:
    with pytest.raises(CalibrationError), own_modes(), forward_modes(), own_modes():
        assert torch.is_grad_enabled()
        raise CalibrationError("inside")
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has one interface to precisions")
def test_a_caller_may_have_set_precisions_by_torchs_newer_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refused)
    everywhere: Any = torch.backends
    products = everywhere.mkldnn.matmul
    before = everywhere.fp32_precision, products.fp32_precision
    try:
        everywhere.fp32_precision, products.fp32_precision = "tf32", "bf16"
        with own_modes():
            assert (everywhere.fp32_precision, products.fp32_precision) == ("ieee", "ieee")
        assert (everywhere.fp32_precision, products.fp32_precision) == ("tf32", "bf16")
    finally:
        everywhere.fp32_precision, products.fp32_precision = before

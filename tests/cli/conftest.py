"""A stand-in for the Python interface, so that these tests need no model."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import vitq
from vitq.artifact.metrics import RunMetrics
from vitq.cli import app

METRICS = RunMetrics(
    fp_top1=84.1,
    fp_top5=97.0,
    top1=79.3,
    top5=95.25,
    agreement=85.0,
    images=1000,
    mean_segment_error=0.01234,
    size_bytes=3_100_000,
    fp_size_bytes=22_900_000,
    seconds=754.2,
    peak_memory_bytes=2 * 2**30,
)


@dataclass(frozen=True)
class Metrics:
    images: int = 1000
    top1: float | None = 84.1
    top5: float | None = 97.0
    agreement: float | None = None


@dataclass
class Api:
    """Remembers the calls; ``error`` is raised by the next one."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    metrics: RunMetrics = METRICS
    bits: str = "w4a4"
    measured: Metrics = Metrics()
    error: BaseException | None = None

    def quantize(self, *args: Any, **kwargs: Any) -> Any:
        self._called("quantize", args, kwargs)
        artifact = SimpleNamespace(metrics=self.metrics, config=SimpleNamespace(bits=self.bits))
        return SimpleNamespace(metrics=self.metrics, artifact=artifact)

    def evaluate(self, *args: Any, **kwargs: Any) -> Metrics:
        self._called("evaluate", args, kwargs)
        return self.measured

    def _called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append((name, args, kwargs))
        if self.error is not None:
            raise self.error


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """Replace ``vitq.api``."""
    stub = Api()
    module = ModuleType("vitq.api")
    module.quantize, module.evaluate = stub.quantize, stub.evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vitq.api", module)
    monkeypatch.setattr(vitq, "api", module, raising=False)
    return stub


@pytest.fixture
def vitq_cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``vitq`` with arguments; a wide terminal keeps tables on one line."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run

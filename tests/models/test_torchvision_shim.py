import importlib

import pytest
import torch

from vitq.models.torchvision_shim import ensure_torchvision

shim = ensure_torchvision.__wrapped__  # without its cache


def _must_not_import(name: str) -> None:
    raise AssertionError(f"{name} was imported")


def test_torchvision_imports_and_transforms_work() -> None:
    ensure_torchvision()
    from torchvision.transforms import functional

    assert functional.hflip(torch.arange(3.0)[None]).tolist() == [[2.0, 1.0, 0.0]]


def test_does_nothing_where_torchvision_imports_cleanly() -> None:
    ensure_torchvision()

    assert shim() is None


def test_returns_at_once_where_torch_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(importlib, "import_module", _must_not_import)

    assert shim() is None


def test_other_failures_of_torchvision_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("couldn't load something else")

    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(importlib, "import_module", fail)

    with pytest.raises(RuntimeError, match="something else"):
        shim()

"""``models``, ``recipes``, ``doctor`` and ``demo``."""

import json
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vitq
from vitq.cli.doctor import environment, machine, packages
from vitq.cli.doctor.check import Check, Status
from vitq.cli.models import is_tested


@pytest.fixture
def timm_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["deit_tiny_patch16_224", "resnet50", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"]
    module = ModuleType("vitq.models")
    module.list_models = lambda pattern: [name for name in names if pattern in name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vitq.models", module)
    monkeypatch.setattr(vitq, "models", module, raising=False)


@pytest.mark.usefixtures("timm_names")
def test_models_lists_and_marks_tested_families(vitq_cli: Any) -> None:
    assert vitq_cli("models").stdout.splitlines() == [
        "* deit_tiny_patch16_224",
        "  resnet50",
        "* swin_tiny_patch4_window7_224",
        "* swinv2_tiny_window8_256",
    ]
    assert "resnet50" not in vitq_cli("models", "--tested").stdout
    told = vitq_cli("models", "--tested").stdout
    assert any("SegFormer" in line and "dense" in line and "openvino" in line for line in told.splitlines())
    (one,) = json.loads(vitq_cli("models", "segf", "--tested", "--json").stdout)["families"]
    assert one["task"] == "dense" and one["files"] == ["onnxruntime", "openvino"]
    assert json.loads(vitq_cli("models", "res", "--json").stdout) == {"models": [{"name": "resnet50", "tested": False}]}


@pytest.mark.usefixtures("timm_names")
def test_no_model_matches(vitq_cli: Any) -> None:
    result = vitq_cli("models", "xyz")
    assert result.exit_code == 2
    assert "no timm model matches 'xyz'" in result.stderr


@pytest.mark.parametrize(("name", "tested"), [("vit_base", True), ("vitamin_small", False), ("resnet50", False)])
def test_families_are_whole_words(name: str, tested: bool) -> None:
    assert is_tested(name) is tested


@pytest.mark.parametrize("arguments", [("recipes",), ("recipes", "list")])
def test_recipes_are_listed(vitq_cli: Any, arguments: tuple[str, ...]) -> None:
    result = vitq_cli(*arguments)
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("rtn", "repq", "brecq", "qdrop", "pd-quant", "mgrq"))


def test_recipes_as_json(vitq_cli: Any) -> None:
    recipes = json.loads(vitq_cli("recipes", "list", "--json").stdout)["recipes"]
    assert {"name", "summary", "source", "extends"} == set(recipes[0])


def test_unknown_recipes_end_with_2(vitq_cli: Any) -> None:
    result = vitq_cli("recipes", "show", "mgrk")
    assert result.exit_code == 2
    assert "did you mean 'mgrq'" in result.stderr


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    found = [
        Check("python", Status.OK, "3.11"),
        Check("hf", Status.MISSING, "for [x]", "pip install 'vitq[hf]'"),
    ]
    monkeypatch.setattr(environment, "all_checks", lambda: iter(found))
    return found


def test_doctor_is_content_when_only_optional_things_are_missing(vitq_cli: Any, checks: list[Check]) -> None:
    result = vitq_cli("doctor")
    assert result.exit_code == 0
    assert "pip install 'vitq[hf]'" in result.stdout
    assert "for [x]" in result.stdout


def test_doctor_fails_when_something_required_is_broken(vitq_cli: Any, checks: list[Check]) -> None:
    checks.append(Check("torch", Status.BROKEN, "not installed", "pip install torch"))
    assert vitq_cli("doctor").exit_code == 1
    result = vitq_cli("doctor", "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["ok"] is False
    assert [check["status"] for check in data["checks"]] == ["ok", "missing", "broken"]


def test_packages_that_are_absent_old_or_do_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.required("PyYAML").status is Status.OK
    monkeypatch.setitem(packages.REQUIRED, "no-such-package", "no_such_package")
    assert packages.required("no-such-package") == Check(
        "no-such-package", Status.BROKEN, "not installed", "pip install 'no-such-package'"
    )
    monkeypatch.setitem(packages.REQUIRED, "PyYAML", "no_such_module")
    assert "fails to import: No module named" in packages.required("PyYAML").value
    monkeypatch.setitem(packages.REQUIRED, "PyYAML", "yaml")
    monkeypatch.setattr(metadata, "requires", lambda _: ["typer>=0.1", "pyyaml>=99", "x; extra == 'hf'"])
    too_old = packages.required("PyYAML")
    assert too_old.status is Status.BROKEN
    assert "vitq needs pyyaml>=99" in too_old.value


def test_a_missing_compiler_and_a_full_disk_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e6}))
    assert machine.compiler().status is Status.MISSING
    assert machine.disk(Path()).status is Status.MISSING


def test_the_processor_is_named() -> None:
    check = machine.processor()
    assert check.status is Status.OK
    assert "cores" in check.value


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vitq.demo")
    module.digits = lambda: ("model", [1, 2, 3], ([4, 5], [0, 1]))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vitq.demo", module)
    monkeypatch.setattr(vitq, "demo", module, raising=False)


@pytest.mark.usefixtures("digits")
def test_demo_compares_plain_rounding_with_mgrq(vitq_cli: Any, api: Any, tmp_path: Path) -> None:
    result = vitq_cli("demo", "--out", str(tmp_path), "--bits", "w2a2", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert [call[2]["recipe"] for call in api.calls] == ["rtn", "mgrq"]
    assert all(call[1] == ("model", [1, 2, 3]) for call in api.calls)
    assert all(call[2]["bits"] == "w2a2" and call[2]["seed"] == 3 for call in api.calls)
    words = [line.split()[:1] for line in result.stdout.splitlines()]
    assert [row for row in words if row in (["floating"], ["rtn"], ["mgrq"])] == [
        ["floating"],
        ["rtn"],
        ["mgrq"],
    ]
    assert str(tmp_path) in result.stderr


@pytest.mark.usefixtures("digits")
def test_demo_as_json(vitq_cli: Any, api: Any, tmp_path: Path) -> None:
    data = json.loads(vitq_cli("demo", "--out", str(tmp_path), "--json").stdout)
    assert list(data["results"]) == ["rtn", "mgrq"]
    assert data["results"]["mgrq"]["path"] == str(tmp_path / "mgrq-w2a2")

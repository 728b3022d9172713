"""A run that is asked for a size or a loss chooses its bits; one that is asked for bits too is told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import AllocationError, ArgumentError
from vitq.quantizers import Quantizer

X_NCHW = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_size_is_met_and_its_trials_are_kept(one_block: nn.Module, tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": "rtn", "progress": False}
    most = vitq.quantize(one_block, X_NCHW, bits="w8a8", **options, out=tmp_path / "most").metrics.size_bytes or 0
    least = vitq.quantize(one_block, X_NCHW, bits="w2a2", **options, out=tmp_path / "least").metrics.size_bytes or 0
    stored = {name: torch_size(tmp_path / name) for name in ("most", "least")}
    assert least < most
    wanted = (stored["most"] + stored["least"]) / 2
    model = vitq.quantize(one_block, X_NCHW, fit_mb=wanted / 1e6, out=tmp_path / "fit", **options)
    assert model.config.bits.startswith("mixed w") and torch_size(tmp_path / "fit") <= wanted
    assert (tmp_path / "fit" / "bits" / "sensitivities.json").is_file()
    again = vitq.quantize(one_block, X_NCHW, fit_mb=wanted / 1e6, out=tmp_path / "fit", resume=True, **options)
    assert again.config == model.config


def torch_size(run: Path) -> int:
    """Return the bytes of a run's stored tensors."""
    from safetensors import safe_open

    with safe_open(run / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


def test_a_loss_leaves_sites_in_floating_point_and_8_bits_elsewhere(one_block: nn.Module) -> None:
    model = vitq.quantize(one_block, X_NCHW, within=50.0, recipe="rtn", progress=False)
    assert {row.bits for row in model.scope_table() if row.bits is not None} <= {8, 32}
    assert "bits-for-target" not in dict(model.metrics.warnings), "without a target nothing is narrowed"


def test_a_target_takes_a_bit_of_weights_alone(one_block: nn.Module) -> None:
    """Activations of 7 bits would lose accuracy and save nothing in its files."""
    options: dict[str, Any] = {"within": 50.0, "recipe": "rtn", "target": "onnxruntime", "progress": False}
    model = vitq.quantize(one_block, X_NCHW, **options)
    assert {weight.format.bits for weight in model.weights.values()} == {7}
    assert {one.format.bits for one in model.graph.quantizers.values() if isinstance(one, Quantizer)} == {8}


def test_what_cannot_be_met_and_what_is_said_twice_are_errors(one_block: nn.Module) -> None:
    with pytest.raises(AllocationError):
        vitq.quantize(one_block, X_NCHW, fit_mb=1e-6, progress=False)
    for goal in ({"fit_mb": 1.0}, {"within": 1.0}):
        with pytest.raises(ArgumentError, match="choose the bits: leave bits out"):
            vitq.quantize(one_block, X_NCHW, bits="w4a4", progress=False, **goal)
    with pytest.raises(ArgumentError, match="fit_mb takes a number of megabytes above 0"):
        vitq.quantize(one_block, X_NCHW, fit_mb=0, progress=False)


def test_the_command_passes_both_and_names_the_folder_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from vitq.cli import app

    seen: dict[str, Any] = {}

    def quantize(*_: Any, **options: Any) -> None:
        seen.update(options)
        raise ArgumentError("enough")

    monkeypatch.setattr("vitq.api.quantize", quantize)
    CliRunner().invoke(app, ["quantize", "m", "--images", ".", "--fit-mb", "4", "--within", "1.0"])
    assert (seen["fit_mb"], seen["within"]) == (4.0, 1.0) and str(seen["out"]) == "runs/m-auto-fit4_within1"

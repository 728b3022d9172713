"""Models of several outputs, from the module to the proven file."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import vitq
from vitq.export.verify.outputs import EndToEnd, Floating, compare, complaints

X_NCHW = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK = {
    "reconstruct.steps": 2,
    "reconstruct.batch": 4,
    "reconstruct.compute.precision": "float32",
    "calibrate.images": 8,
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return x_BTC + self.fc2(nn.functional.gelu(self.fc1(self.norm(x_BTC))))


class Several(nn.Module):
    """Patches, two blocks and heads: classes, a map from inside, a second head on the first block."""

    def __init__(self, classes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Conv2d(3, 16, 4, 4), nn.Sequential(Block(), Block())
        self.norm, self.head, self.aux = nn.LayerNorm(16), nn.Linear(16, 5), nn.Linear(16, 3)
        self.classes = classes

    def forward(self, x_BCHW: torch.Tensor) -> Any:
        first = self.blocks[0](self.stem(x_BCHW).flatten(2).transpose(1, 2))
        last = self.norm(self.blocks[1](first))
        logits, aux = self.head(last.mean(1)), self.aux(first).sigmoid()
        return (
            {"logits": logits, "features": last, "aux": aux} if self.classes else (aux, {"maps": last}, logits[:, None])
        )


@pytest.mark.parametrize("classes", [True, False])
def test_every_output_is_quantized_saved_exported_and_proven(classes: bool, tmp_path: Path) -> None:
    model = Several(classes).eval()
    names = ["logits", "features", "aux"] if classes else ["output_0", "output_1.maps", "output_2"]
    made = vitq.quantize(model, X_NCHW, recipe="rtn", bits="w8a8", limit=16, progress=False, out=tmp_path / "run")
    loaded, y = vitq.load(tmp_path / "run"), made(X_NCHW)

    assert list(y) == names and all(torch.equal(loaded(X_NCHW)[name], y[name]) for name in names)
    assert set(made.metrics.outputs or {}) == set(names[1:] if classes else names)
    assert (made.metrics.agreement is None) is not classes
    exported = loaded.export(tmp_path / "model.onnx", X_NCHW, floating=model if classes else None)
    file = onnx.load(tmp_path / "model.onnx")
    assert [output.name for output in file.graph.output] == names
    assert exported.end is not None and set(exported.end.outputs or {}) == set(made.metrics.outputs or {})
    assert sum(proof.sites for proof in exported.segments) == len(loaded.graph.quantizers)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"relative error of {names[1]}" in page and "relative error of the outputs" not in page


@pytest.mark.parametrize(("classes", "curvature"), [(True, "fisher"), (False, "least_squares")])
def test_training_sees_every_output(classes: bool, curvature: str) -> None:
    overrides = {
        **QUICK,
        "reconstruct.objective.curvature": curvature,
        "reconstruct.objective.global": 1.0,
        "reconstruct.objective.global_on": "outputs",
    }
    model = Several(classes)
    made = vitq.quantize(model, X_NCHW, recipe="mgrq", bits="w4a4", limit=16, progress=False, overrides=overrides)
    assert not {"no-term"} & {name for name, _ in made.metrics.warnings}
    assert list(made.metrics.segment_errors)[:3] == ["model.stem", "model.blocks.0", "model.blocks.1"]


def test_an_output_that_differs_is_named() -> None:
    end = EndToEnd(64, 99.0, 99.0, None, None, outputs={"boxes": (0.5, 1e-3), "maps": (1e-3, 1e-3)})
    assert complaints(end) == ["output 'boxes' is 0.5 off the simulation's (bound 0.052)"]


def test_sets_of_boxes_are_proven_by_what_is_matched_whatever_their_order() -> None:
    draws = torch.Generator().manual_seed(0)
    y = {"logits": 4 * torch.randn(3, 5, 4, generator=draws), "pred_boxes": torch.rand(3, 5, 4, generator=draws)}
    turned = [y[name].flip(1) for name in y]
    file: Any = lambda x_BCHW: turned  # noqa: E731
    images: Any = lambda: [(torch.zeros(3, 3, 8, 8), None)]  # noqa: E731
    end = compare(lambda _: y, file, images, Floating(lambda _: y, file), tuple(y), "boxes")
    assert end.agreement == 100 and not end.outputs and complaints(end) == [] and end.floating_error == 0


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_one_tensor_under_two_names_and_the_input_itself_are_outputs_too(target: str, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 4)

        def forward(self, x_BCHW: torch.Tensor) -> Any:
            y = self.fc(x_BCHW.flatten(1))
            return {"a": y, "b": y, "images": x_BCHW}

    made = vitq.quantize(Twice(), X_NCHW, recipe="rtn", bits="w8a8", limit=16, progress=False)
    assert list(made(X_NCHW)) == ["a", "b", "output_images"]
    made.export(tmp_path / "model.onnx", X_NCHW, target=target)

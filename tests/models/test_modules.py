"""What people give as a model: wrapped, compiled, averaged, or no model at all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from vitq.errors import ModelError
from vitq.models import load_model
from vitq.models.modules import plain_copy
from vitq.models.torchvision_shim import ensure_torchvision


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


WRAPPERS: list[Callable[[nn.Module], Any]] = [
    nn.DataParallel,
    torch.optim.swa_utils.AveragedModel,
    torch.compile,
    lambda m: nn.DataParallel(torch.compile(m)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], Any]) -> None:
    model, x = Small(), torch.randn(2, 4)
    loaded = load_model(wrap(model))
    assert type(loaded.module) is Small and loaded.name == "Small"
    assert torch.equal(loaded.module(x), model(x))


def weight_norm(model: nn.Module) -> nn.Module:
    nn.utils.weight_norm(model.get_submodule("fc"))
    return model


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.get_submodule("fc"), "weight", 0.5)
    return model


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("wrap", [weight_norm, pruned])
def test_weights_that_hooks_compute_are_plain_in_the_copy(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, x = wrap(Small()), torch.randn(2, 4)
    names = list(model.state_dict())
    loaded = load_model(model)
    assert sorted(loaded.module.state_dict()) == ["fc.bias", "fc.weight"] and list(model.state_dict()) == names
    torch.testing.assert_close(loaded.module(x), model(x))


def test_state_beside_the_tensors_is_no_obstacle() -> None:
    class Stateful(Small):
        def get_extra_state(self) -> dict[str, int]:
            return {"step": 3}

    assert len(load_model(Stateful()).source["sha256"]) == 64


def test_timm_averages_are_taken_off() -> None:
    ensure_torchvision()
    from timm.utils import ModelEmaV2

    assert type(load_model(ModelEmaV2(Small())).module) is Small


def test_compiled_parts_are_taken_out_of_the_copy_only() -> None:
    model = nn.Sequential(torch.compile(Small()), nn.Identity())  # type: ignore[arg-type]
    loaded = load_model(model)
    assert list(loaded.module.state_dict()) == ["0.fc.weight", "0.fc.bias"]
    assert type(model[0]).__name__ == "OptimizedModule"


class Uncopied(Small):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("a lock")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: torch.jit.trace(Small(), torch.zeros(1, 4)), "the Small is TorchScript.*Python module"),
        (lambda: torch.jit.script(Small()), "the Small is TorchScript"),
        (lambda: nn.Sequential(torch.jit.script(Small())), "the Small is TorchScript"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "'0.weight' is lazy.*run the model once"),
        (lambda: Small().to("meta"), "'fc.weight' is on the meta device"),
        (lambda: torch.export.export(Small(), (torch.zeros(1, 4),)), "ExportedProgram; give the torch.nn.Module"),
        (lambda: nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(4, 3)), "quantized by torch already.*floating"),
        (Uncopied, "Uncopied cannot be copied.*a lock"),
        (lambda: Small, "class Small, not an instance of it"),
        (lambda: dict, "class dict, not no model"),
        (lambda: None, "model is None"),
        (lambda: 3, "model is 3 of type int"),
        (lambda: b"deit", "of type bytes"),
        (lambda: "", "model is ''"),
        (lambda: "x" * 5000, "neither a name nor a folder|timm has no model"),
        (lambda: "a\0b", "neither a name nor a folder|timm has no model"),
        (lambda: len, "is a function"),
    ],
)
def test_what_is_no_model_is_refused_with_what_to_give(model: Callable[[], Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(model())


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, "3"])
def test_wrong_numbers_of_classes_are_refused(classes: Any) -> None:
    with pytest.raises(ModelError, match="num_classes"):
        load_model(Small(), num_classes=classes)


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(ModelError, match="weights is a dict"):
        load_model(Small(), weights={})  # type: ignore[arg-type]


def test_state_that_is_no_plain_tensor_is_named() -> None:
    sparse = nn.Linear(2, 2)
    sparse.register_buffer("mask", torch.eye(2).to_sparse())
    with pytest.raises(ModelError, match=r"mask' .* sparse tensor"):
        plain_copy(sparse)

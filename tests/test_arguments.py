"""Arguments are checked before anything is loaded: by type and range, in one table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vitq
from vitq.arguments import RULES, check, checked, whole
from vitq.errors import ArgumentError, VitqError
from vitq.models import load_model


class Untouched(nn.Module):
    """A model that nobody may read: what is refused is refused before."""

    def __deepcopy__(self, memo: Any) -> "Untouched":
        raise AssertionError("the model was loaded before the arguments were checked")


IMAGES = torch.zeros(4, 3, 8, 8)
NUMBERS = [0, -1, 1.5, "8", None, True, 10**30, float("nan"), [1], torch.tensor(3)]
WRONG: dict[str, list[Any]] = {
    "limit": NUMBERS,
    "views": NUMBERS,
    "num_classes": [n for n in NUMBERS if n is not None],
    "seed": [-1, 99999999999999999999, 1.0, "0", None, True],
    "bits": [None, 4, "", "w4", "w4a4a4", "w9a4", "w4a" + "9" * 5000, "w\uff14a4", ["w4a4"]],
    "recipe": [None, 3, "", "  ", "x" * 5000, "a\0b.yaml", nn.Linear, "/" + "a/" * 3000 + "b.yaml"],
    "budget": [None, 1, "", "quik"],
    "scope": [3, "", "papier", ["paper"]],
    "target": [3, "", "onnx"],
    "weights": [3, "", "nope.pth", "x" * 5000, b"w.pth"],
    "preprocessing": [
        3,
        "squash",
        [("crop_pct", 0.9)],
        {1: 2},
        {"crop_pct": object()},
        {"crop_pct": 5},
        {"crop_pct": "0.9"},
        {"std": [0.1, 0.0, 0.1]},
        {"mean": "abc"},
        {"mean": None},
        {"input_size": [3, 8.5, 8]},
        {"input_size": 224},
        {"input_size": [True, 8, 8]},
        {"crop_mode": []},
        {"interpolation": "x" * 5000},
        {"assumed": "yes"},
        {"mean": [1e300] * 3},
        {"x" * 5000: 1},
        {"input_size": [1, 8, 8], "std": [0.1] * 3},
        {"input_size": [[], 8, 8]},
    ],
    "overrides": [3, "reconstruct.steps=5", [("a", 1)], {1: 2}, {"reconstruct.steps": float("inf")}],
    "device": [None, 3, "", "gpu", "cuda:99", "cpu:x", "meta", "fpga", "x" * 3000],
    "out": [3, "", "  ", b"run", "x" * 5000, "a\0b"],
    "resume": [1, "no", None],
    "overwrite": [0, "yes", None],
    "progress": [1, "no", None],
    "validation": [3, "", "nowhere", b"x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_argument_is_refused_before_the_model_is_read(name: str, value: Any) -> None:
    with pytest.raises(VitqError) as caught:
        vitq.quantize(Untouched(), IMAGES, **{"recipe": "qdrop", name: value})
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("value", [None, 3, nn.Linear, lambda x: x, "", "a" * 5000, ["vit"], b"vit"])
def test_what_is_no_model_is_refused(value: Any) -> None:
    for verb in (vitq.quantize, vitq.granularity, vitq.evaluate):
        with pytest.raises(ArgumentError, match="module"):
            verb(value, IMAGES)


@pytest.mark.parametrize("value", [None, 3, True, b"photos", "", "nowhere/photos", "a\0b"])
def test_what_holds_no_images_is_refused_before_the_model_is_read(value: Any) -> None:
    for verb in (vitq.quantize, vitq.granularity, vitq.evaluate):
        with pytest.raises(VitqError):
            verb(Untouched(), value)


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        (vitq.evaluate, {"limit": 0}, "limit takes a whole number from 1"),
        (vitq.evaluate, {"batch_size": 0}, "batch_size takes a whole number from 1"),
        (vitq.evaluate, {"integer": "yes"}, "integer takes True or False"),
        (vitq.granularity, {"seed": -1}, "seed takes a whole number from 0"),
        (vitq.granularity, {"limit": "all"}, "limit takes a whole number from 1"),
        (vitq.quantize, {"resume": True}, "name it with out"),
        (vitq.quantize, {"overwrite": True}, "name it with out"),
    ],
)
def test_the_message_names_the_argument_and_what_it_takes(verb: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        verb(Untouched(), IMAGES, **options)


@pytest.mark.parametrize("path", [None, 3, "", "x" * 5000, "a\0b", b"run"])
def test_load_takes_a_path(path: Any) -> None:
    with pytest.raises(ArgumentError, match="path takes the path of a folder"):
        vitq.load(path)


def test_numbers_of_numpy_are_numbers() -> None:
    assert check("limit", np.int64(7), RULES["limit"]) == 7
    assert check("resume", np.True_, RULES["resume"]) is True
    assert type(check("seed", np.uint8(3), RULES["seed"])) is int


def test_a_rule_of_its_own_replaces_that_of_the_table_and_none_passes_where_it_is_the_default() -> None:
    @checked(limit=whole(2, 3))
    def verb(limit: int, seed: int | None = None) -> tuple[int, int | None]:
        return limit, seed

    assert verb(2) == (2, None) and verb(limit=3, seed=None) == (3, None)
    with pytest.raises(ArgumentError, match="limit takes a whole number from 2 to 3, not 4"):
        verb(4)


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.json").touch()
    (tmp_path / "w.pth").touch()
    for options in ({"weights": tmp_path / "w.pth"}, {"num_classes": 3}, {"preprocessing": {"crop_pct": 0.3}}):
        with pytest.raises(ArgumentError, match=f"has its own {next(iter(options))}"):
            vitq.evaluate(tmp_path, IMAGES, **options)
    loaded = load_model(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="loaded already"):
        vitq.quantize(loaded, IMAGES, num_classes=3)


@pytest.mark.parametrize(
    "values",
    [{}, {"crop_pct": 0.5}, {"mean": [0.5]}, {"input_size": [1, 8, 8]}, {"input_size": [4, 8, 8]}, {"std": (1, 1, 1)}],
)
def test_some_values_of_a_preprocessing_are_taken_alone(values: dict[str, Any]) -> None:
    assert check("preprocessing", values, RULES["preprocessing"]) == values


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99", "", None, 3])
def test_a_model_moves_only_to_a_device_that_is_there(small_artifact: Path, device: Any) -> None:
    model = vitq.load(small_artifact)
    with pytest.raises(ArgumentError, match="device"):
        model.to(device)
    assert model.to(torch.device("cpu")).to("auto") is model


def test_what_bench_takes_is_in_the_table() -> None:
    for name, value in (
        ("runs", []),
        ("runs", {}),
        ("runs", nn.Identity()),
        ("runs", ["a", ""]),
        ("batch", [0]),
        ("threads", True),
        ("rounds", 0),
    ):
        with pytest.raises(ArgumentError, match=name):
            check(name, value, RULES[name])
    assert check("runs", ["a", Path("b")], RULES["runs"]) == (Path("a"), Path("b"))


def test_the_message_names_the_key_of_a_mapping() -> None:
    with pytest.raises(ArgumentError, match=r"'reconstruct\.learn\.weights': input should be a finite number"):
        check("overrides", {"insert.scope": "paper", "reconstruct.learn.weights": float("nan")}, RULES["overrides"])


def test_averages_given_as_numbers_are_not_rounded() -> None:
    found = check("average_bits", 4.12345678, RULES["average_bits"])
    assert (found.weights, found.activations) == (4.12345678, 4.12345678)

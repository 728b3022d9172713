"""``vitq quantize`` and ``evaluate``: words in, calls to the Python interface, results out."""

import json
from pathlib import Path
from typing import Any

import pytest

from vitq.artifact.metrics import RunMetrics
from vitq.cli.quantize import default_out

RUN = ("quantize", "deit_tiny_patch16_224", "--images", "photos")


def test_every_option_reaches_the_python_interface(vitq_cli: Any, api: Any) -> None:
    line = (
        "quantize deit_tiny_patch16_224 --weights w.safetensors --images photos --recipe qdrop --bits w3a4 "
        "--budget full --validation val --out runs/x --seed 7 --device cpu --set reconstruct.steps=500 "
        "--set reconstruct.schedule=[unit] --resume --views 2 --limit 64 --num-classes 5 --crop-pct 0.875 "
        "--scope full --target openvino --cpu vnni --quiet"
    )
    result = vitq_cli(*line.split())
    assert result.exit_code == 0, result.output
    assert api.calls == [
        (
            "quantize",
            ("deit_tiny_patch16_224", "photos"),
            {
                "recipe": "qdrop",
                "bits": "w3a4",
                "fit_mb": None,
                "within": None,
                "budget": "full",
                "scope": "full",
                "target": "openvino",
                "cpu": "vnni",
                "weights": "w.safetensors",
                "num_classes": 5,
                "preprocessing": {"crop_pct": 0.875},
                "limit": 64,
                "views": 2,
                "overrides": {"reconstruct.steps": 500, "reconstruct.schedule": ["unit"]},
                "seed": 7,
                "device": "cpu",
                "out": Path("runs/x"),
                "resume": True,
                "overwrite": False,
                "validation": "val",
                "task": None,
                "inside": None,
                "progress": False,
            },
        )
    ]


def test_a_part_has_a_folder_of_its_own(vitq_cli: Any, api: Any) -> None:
    assert vitq_cli(*RUN, "--inside", "vision_model").exit_code == 0
    options = api.calls[0][2]
    assert options["inside"] == "vision_model"
    assert options["out"] == Path("runs/deit_tiny_patch16_224_vision_model-repq-w8a8")


def test_defaults(vitq_cli: Any, api: Any) -> None:
    assert vitq_cli(*RUN).exit_code == 0
    options = api.calls[0][2]
    assert options["out"] == Path("runs/deit_tiny_patch16_224-repq-w8a8")
    assert (options["recipe"], options["bits"], options["budget"], options["scope"]) == (
        "auto",
        "w8a8",
        "quick",
        None,
    )
    assert (options["limit"], options["views"], options["seed"], options["device"]) == (1000, 1, 0, "auto")
    assert options["overrides"] == {}
    assert options["progress"] is True
    assert [options[key] for key in ("weights", "num_classes", "preprocessing", "validation")] == [None] * 4


def test_the_closing_table_shows_before_and_after(vitq_cli: Any, api: Any) -> None:
    output = vitq_cli(*RUN).stdout
    for row in (
        ("bits", "w32a32", "w4a4"),
        ("top-1", "84.1 %", "79.3 %"),
        ("top-5", "97.0 %", "95.2 %"),
        ("agreement with floating point", "85.0 % of 1,000"),
        ("mean segment error", "0.0123"),
        ("size on disk", "22.9 MB", "3.1 MB (7.4x smaller)"),
        ("time", "12 min 34 s"),
        ("peak memory", "2.00 GiB"),
    ):
        line = next(line for line in output.splitlines() if line.strip().startswith(row[0]))
        assert all(cell in line for cell in row), line


def test_without_labels_accuracy_is_a_dash(vitq_cli: Any, api: Any) -> None:
    api.metrics = RunMetrics(agreement=90.0, images=100)
    lines = vitq_cli(*RUN).stdout.splitlines()
    assert next(line for line in lines if "top-1" in line).split() == ["top-1", "-", "-"]
    assert any("90.0 % of 100" in line for line in lines)


def test_the_bits_told_are_those_of_the_artifact(vitq_cli: Any, api: Any) -> None:
    api.bits = "w7a8"
    line = (*RUN, "--bits", "w8a8", "--target", "openvino")
    assert json.loads(vitq_cli(*line, "--json").stdout)["bits"] == "w7a8"
    assert "w7a8" in vitq_cli(*line).stdout


def test_json_is_the_only_thing_on_stdout(vitq_cli: Any, api: Any) -> None:
    api.metrics = api.metrics.model_copy(update={"mean_segment_error": float("nan")})
    result = vitq_cli(*RUN, "--json", "--out", "runs/y")
    data = json.loads(result.stdout, parse_constant=pytest.fail)
    assert data["path"] == "runs/y"
    assert data["top1"] == 79.3
    assert data["mean_segment_error"] == "nan"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", "4x4"), "bits '4x4' not understood"),
        (("--bits", "w1a4"), "1 bits"),
        (("--set", "steps"), "'steps' is no override"),
        (("--limit", "0"), "--limit"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_bad_input_ends_with_2_before_anything_runs(vitq_cli: Any, api: Any, arguments: Any, message: str) -> None:
    result = vitq_cli(*RUN, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert api.calls == []


def test_images_are_required(vitq_cli: Any, api: Any) -> None:
    result = vitq_cli("quantize", "deit_tiny_patch16_224")
    assert result.exit_code == 2
    assert "--images" in result.stderr


def test_evaluate_passes_its_options_and_prints_a_line(vitq_cli: Any, api: Any) -> None:
    result = vitq_cli("evaluate", "runs/x", "--images", "val", "--limit", "10", "--batch-size", "4", "--integer", "-q",
                      "--task", "dense")  # fmt: skip
    assert result.exit_code == 0
    assert result.stdout == "top-1 84.1 %, top-5 97.0 % (1,000 images)\n"
    ((name, arguments, options),) = api.calls
    assert (name, arguments) == ("evaluate", ("runs/x", "val"))
    assert options == {
        "task": "dense",
        "weights": None,
        "num_classes": None,
        "preprocessing": None,
        "limit": 10,
        "batch_size": 4,
        "integer": True,
        "baseline": False,
        "workers": None,
        "device": "auto",
        "progress": False,
    }


def test_evaluate_json(vitq_cli: Any, api: Any) -> None:
    result = vitq_cli("evaluate", "runs/x", "--images", "val", "--json")
    assert json.loads(result.stdout) == {"images": 1000, "top1": 84.1, "top5": 97.0, "agreement": None}


@pytest.mark.parametrize(
    ("model", "recipe", "folder"),
    [
        ("google/vit-base-patch16-224", "mgrq", "vit_base_patch16_224-mgrq-w4a4"),
        ("hf-hub:timm/x", "my/own recipe.yaml", "x-own_recipe-w4a4"),
        ("models/mine/", "pd-quant", "mine-pd_quant-w4a4"),
        ("deit_tiny_patch16_224.fb_in1k", "rtn", "deit_tiny_patch16_224.fb_in1k-rtn-w4a4"),
    ],
)
def test_default_out_is_a_safe_name(model: str, recipe: str, folder: str) -> None:
    assert default_out(model, recipe, "W4A4") == Path("runs") / folder

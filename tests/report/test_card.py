"""The card says what a quantized model is, in YAML and Markdown."""

from types import SimpleNamespace
from typing import Any

import yaml

from vitq.artifact.metrics import RunMetrics
from vitq.artifact.schema import ArtifactConfig
from vitq.report.card import model_card


def test_the_card_has_metadata_numbers_and_the_line_that_loads() -> None:
    config = ArtifactConfig(
        source={"name": "deit: tiny"},
        preprocessing={},
        bits="w8a8",
        scope="deploy",
        recipe={"name": "repq"},
        seed=0,
        calibration={"images": 64},
        versions={"vitq": "0.1.0"},
        sites={},
    )
    metrics = RunMetrics(fp_top1=84.1, top1=84.0, images=1000, size_bytes=6_000_000, fp_size_bytes=23_000_000)
    artifact: Any = SimpleNamespace(config=config, metrics=metrics)
    card = model_card(artifact, "hf-hub:me/deit")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "vitq",
        "tags": ["quantization", "vision-transformer", "w8a8"],
        "base_model": "deit: tiny",
    }
    assert "| top-1 | 84.1 % | 84.0 % |" in body and 'vitq.load("hf-hub:me/deit")' in body
    assert "recipe `repq`" in body and "64 calibration images" in body

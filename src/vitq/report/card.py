"""The card of a quantized model: what it is, what it lost and how to load it, as Markdown for a model hub."""

import json

from vitq.artifact.artifact import Artifact
from vitq.report.units import agreement, percent, size_with_ratio


def model_card(artifact: Artifact, repository: str = "PATH") -> str:
    """Return a card with the metadata that model hubs read; ``repository`` is what ``vitq.load`` is given.

    Numbers are those of the run; what was not measured is a dash.
    """
    config, metrics = artifact.config, artifact.metrics
    name = str(config.source.get("name", "a model"))
    meta = {"library_name": "vitq", "tags": ["quantization", "vision-transformer", config.bits], "base_model": name}
    rows = (
        ("top-1", percent(metrics.fp_top1), percent(metrics.top1)),
        ("top-5", percent(metrics.fp_top5), percent(metrics.top5)),
        ("agreement with floating point", "", agreement(metrics.agreement, metrics.images)),
        ("size", "", size_with_ratio(metrics.size_bytes, metrics.fp_size_bytes)),
    )
    recipe = str(config.recipe.get("name", "a recipe"))
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in meta.items()),
            "---",
            f"# {name}, {config.bits}",
            "",
            f"Quantized by vitq {config.versions['vitq']}: recipe `{recipe}`, scope `{config.scope}`, "
            f"seed {config.seed}, {config.calibration['images']} calibration images without labels.",
            "",
            "| | floating point | quantized |",
            "|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "```python",
            "import vitq",
            "",
            f"model = vitq.load({json.dumps(repository, ensure_ascii=False)})",
            "```",
            "",
            "It is a simulation in floating point; `vitq export` writes the file that runs in integer kernels.",
            *(f"* warning `{kind}`: {message}" for kind, message in metrics.warnings or ()),
            "",
        ]
    )

"""The report of one quantized model: a single HTML page that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from vitq.artifact.artifact import Artifact
from vitq.artifact.files import write_files
from vitq.artifact.metrics import RunMetrics
from vitq.bits import FLOATING_POINT
from vitq.calibrate import scope_rows
from vitq.quantizers import Quantizer
from vitq.recipes.document import write_yaml
from vitq.report.heat import Row, heat_rows, is_mixed
from vitq.report.tables import nearness_lines, whole_lines
from vitq.report.units import duration, label, memory, number, percent, score, size

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Line:
    """One line of the table of results: what, in floating point, quantized, and what that means."""

    label: str
    floating: str
    quantized: str
    remark: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of the error chart; ``width`` is in percent of the widest."""

    label: str
    value: str
    width: float


def write_report(path: Path, artifact: Artifact) -> Path:
    """Write the report of ``artifact`` to ``path`` and return it; raise ArtifactError where that fails.

    The same artifact gives the same bytes; time and memory are shown only where its metrics hold them.
    """
    write_files(path.parent, {path.name: render(artifact).encode()})
    return path


def render(artifact: Artifact) -> str:
    """Return the report as HTML: results, error per block, scope, recipe, origin, warnings."""
    config, metrics = artifact.config, artifact.metrics
    text = files("vitq.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = scope_rows(artifact.graph, artifact.weights)
    quantized = sum(row.sites for row in rows if row.bits != FLOATING_POINT)
    return page.from_string(text).render(
        model=str(config.source.get("name", "model")),
        bits=config.bits,
        recipe=str(config.recipe.get("name", "recipe")),
        summary=str(config.recipe.get("summary", "")).strip(),
        source=str(config.recipe.get("source", "")).strip(),
        images=metrics.images,
        compared="outputs are compared" if metrics.relative_error is not None else "agreement is measured",
        measured_on="validation" if any(name == "no-labels" for name, _ in metrics.warnings) else "calibration",
        labelled=metrics.top1 is not None or metrics.fp_scores is not None,
        results=result_lines(metrics, config.bits),
        bars=error_bars(metrics.segment_errors, [s.name for s in artifact.graph.spans("block")]),
        heat=heat_of(artifact),
        scope=rows,
        scope_name=config.scope,
        floating_bits=FLOATING_POINT,
        quantized_sites=quantized,
        all_sites=sum(row.sites for row in rows),
        recipe_yaml=write_yaml(config.recipe),
        origin=origin_groups(artifact),
        warnings=metrics.warnings,
    )


def heat_of(artifact: Artifact) -> tuple[Row, ...]:
    """Return the rows of the heat map of mixed bits; none where bits are the same everywhere."""
    graph = artifact.graph
    quantizers = {**graph.quantizers, **artifact.weights}
    bits = {name: q.format.bits for name, q in quantizers.items() if isinstance(q, Quantizer)}
    if not is_mixed(bits, set(artifact.weights)):
        return ()
    place = {node.name: i for i, node in enumerate(graph.module.graph.nodes)}
    spans = graph.spans("block")
    readers = {name: place[graph.sites[name].consumers[0]] for name in bits}
    blocks = {
        name: next((span.name for span in spans if reader <= place[span.end]), "") for name, reader in readers.items()
    }
    ordered = {name: bits[name] for name in graph.sites if name in bits}
    return heat_rows(ordered, blocks)


def result_lines(metrics: RunMetrics, bits: str) -> list[Line]:
    """Return the lines of the result table; what was not measured has no line."""
    lines = [Line("bits", "w32a32", bits)]
    for word, before, after in (("top-1", metrics.fp_top1, metrics.top1), ("top-5", metrics.fp_top5, metrics.top5)):
        if after is not None:
            lines.append(Line(word, percent(before), percent(after), _points(before, after)))
    if metrics.agreement is not None:
        lines.append(Line("agreement with floating point", "", percent(metrics.agreement)))
    for name, after in (metrics.scores or {}).items():
        lines.append(Line(label(name), score(name, (metrics.fp_scores or {}).get(name)), score(name, after)))
    lines += [Line(line, "", value) for line, value in nearness_lines(metrics)]
    lines += [Line(line, "", value) for line, value in whole_lines(metrics)]
    if metrics.mean_segment_error is not None:
        lines.append(Line("mean segment error", "", number(metrics.mean_segment_error)))
    if metrics.size_bytes is not None:
        before, after = metrics.fp_size_bytes, metrics.size_bytes
        lines.append(Line("size on disk", size(before), size(after), _ratio(before, after)))
    if metrics.seconds is not None:
        lines.append(Line("time", "", duration(metrics.seconds)))
    if metrics.peak_memory_bytes is not None:
        lines.append(Line("peak memory", "", memory(metrics.peak_memory_bytes)))
    return lines


def error_bars(errors: Mapping[str, float], order: Sequence[str]) -> list[Bar]:
    """Return one bar per segment, in the model's order: JSON sorts ``blocks.10`` before ``blocks.2``."""
    place = {name: i for i, name in enumerate(order)}
    names = sorted(errors, key=lambda name: place.get(name, len(place)))
    finite = [error for error in errors.values() if isfinite(error)]
    widest = max(finite, default=0.0) or 1.0
    widths = {name: min(error / widest, 1.0) if isfinite(error) else 1.0 for name, error in errors.items()}
    return [Bar(name, number(errors[name]), round(100 * widths[name], 2)) for name in names]


def origin_groups(artifact: Artifact) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (title, (key, value) pairs) of what the model was made from."""
    config = artifact.config
    run: dict[str, Any] = {"seed": config.seed, "scope": config.scope, "schema": config.schema_version}
    calibration = {
        "images": config.calibration.get("images"),
        "sha256 of the images": config.calibration.get("sha256"),
    }
    groups: dict[str, Mapping[str, Any]] = {
        "Source model": config.source,
        "Preprocessing": config.preprocessing,
        "Calibration": calibration,
        "Run": run,
        "Versions": config.versions,
        "Files (sha256)": config.hashes,
    }
    return [(title, _pairs(values)) for title, values in groups.items() if values]


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _text(value)) for key, value in values.items() if value is not None]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _points(floating: float | None, quantized: float) -> str:
    return "" if floating is None else f"{quantized - floating:+.1f} points"


def _ratio(floating: int | None, quantized: int) -> str:
    return f"{floating / quantized:.1f} times smaller" if floating and quantized else ""

"""The report of one quantized model: a single HTML page that needs nothing but itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitq.artifact.artifact import Artifact
from vitq.artifact.files import to_json_bytes, write_files
from vitq.bits import FLOATING_POINT
from vitq.calibrate import scope_rows
from vitq.evidence import EVIDENCE, Evidence
from vitq.recipes.document import write_yaml
from vitq.report.advice import Facts, advice
from vitq.report.extras import Extras
from vitq.report.figures import Shown, block_chart, depth_chart, loss_chart, site_chart
from vitq.report.maps import bits_map, error_map
from vitq.report.page import page
from vitq.report.results import result_lines
from vitq.report.verdict import verdict_of

TEMPLATE = "report.html.j2"


def write_report(path: Path, artifact: Artifact, extras: Extras | None = None) -> Path:
    """Write the report of ``artifact`` to ``path`` and return it; raise ArtifactError where that fails.

    What was seen during the run is kept beside it, so that the page can be made again. The same artifact gives the
    same bytes; time and memory are shown only where its metrics hold them.
    """
    written: dict[str, bytes] = {}
    if extras is not None and extras.evidence is not None:
        model = artifact.config.hashes.get("model.safetensors", "")
        evidence = extras.evidence.model_copy(update={"model": model})
        written[EVIDENCE] = to_json_bytes(evidence.model_dump(mode="json"))
    written[path.name] = render(artifact, extras).encode()
    write_files(path.parent, written)
    return path


def write_page(path: Path, artifact: Artifact, extras: Extras) -> Path:
    """Write the report alone to ``path`` and return it; ArtifactError where that fails."""
    write_files(path.parent, {path.name: render(artifact, extras).encode()})
    return path


def render(artifact: Artifact, extras: Extras | None = None) -> str:
    """Return the report as HTML: verdict, results, what to try, errors, bits, sites, images, scope, recipe, origin."""
    config, metrics, extras = artifact.config, artifact.metrics, extras or Extras()
    evidence = extras.evidence or Evidence()
    verdict = verdict_of(metrics, evidence.pairs, extras.bench, extras.within)
    rows = scope_rows(artifact.graph, artifact.weights)
    quantized = sum(row.sites for row in rows if row.bits != FLOATING_POINT)
    return page(
        TEMPLATE,
        verdict=verdict,
        advice=advice(Facts(artifact, verdict, extras.evidence, extras.trained, extras.bench)),
        bench=extras.bench,
        depth=depth_chart(extras.trained),
        losses=loss_chart(extras.trained),
        site_heat=error_map(evidence.sites),
        site_words=f"Squared error of each quantized tensor alone, in percent of its energy, on {evidence.images} "
        "calibration images; the strongest colour is the worst, a thousandth of it has none.",
        worst=worst_of(evidence),
        pictures=evidence.pictures,
        attention=evidence.attention,
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
        blocks=block_chart(metrics.segment_errors, [s.name for s in artifact.graph.spans("block")]),
        heat=bits_map(artifact),
        scope=rows,
        scope_name=config.scope,
        floating_bits=FLOATING_POINT,
        quantized_sites=quantized,
        all_sites=sum(row.sites for row in rows),
        recipe_yaml=write_yaml(config.recipe),
        origin=origin_groups(artifact),
        warnings=metrics.warnings,
    )


def worst_of(evidence: Evidence) -> list[Shown]:
    """Return the charts of the worst sites."""
    errors = {site.site: site for site in evidence.sites}
    found = []
    for place, shown in enumerate(evidence.distributions):
        own = errors.get(shown.site)
        about = "" if own is None else f"error {100 * own.error:.2g} % of its energy; {own.bits} bits, {own.format}; "
        found.append(Shown(site_chart(place, shown), shown.site, f"{about}{shown.slice}"))
    return found


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

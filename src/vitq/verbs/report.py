"""What ``vitq.report`` does with its arguments: the page of one run anew, or several runs on one page."""

from pathlib import Path
from typing import Any

from vitq.artifact.artifact import Artifact, read
from vitq.bench.runs import named
from vitq.errors import ArgumentError
from vitq.report.compare import Run, seconds_of, write_comparison
from vitq.report.extras import Extras, extras_of
from vitq.report.html import write_page
from vitq.report.page import check_page

PAGE, COMPARISON = "report.html", "comparison.html"


def report_runs(runs: Any, out: str | Path | None, within: float) -> Path:
    """Write the page of ``runs`` and return its path; arguments and errors as of ``vitq.report``."""
    found = named(runs, ())
    read_runs = {name: _read(run, within) for name, run in found.items()}
    only, place = next(iter(read_runs.values())), next(iter(found.values()))
    if len(read_runs) > 1:
        return write_comparison(Path(out or COMPARISON), read_runs)
    if out is None and isinstance(place, Artifact):
        raise ArgumentError("this model is in no folder: say with out where its report is to be written")
    path = Path(out) if out is not None else Path(str(place)) / PAGE
    check_page(path)
    return write_page(path, only.artifact, only.extras)


def _read(run: Path | Artifact, within: float) -> Run:
    if isinstance(run, Artifact):
        return Run(run, Extras(within=within), run.metrics.seconds)
    artifact = read(run)
    return Run(artifact, extras_of(run, artifact, within), seconds_of(run))

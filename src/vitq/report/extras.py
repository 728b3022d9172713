"""What a report shows beside the artifact itself: what the other files of a run's folder tell."""

from dataclasses import dataclass
from pathlib import Path

from vitq.artifact.artifact import Artifact
from vitq.artifact.files import damaged, exists, parse_json, read_file
from vitq.bench.saved import Bench, read_bench
from vitq.evidence import EVIDENCE, Evidence
from vitq.report.training import Trained, training_of
from vitq.report.verdict import WITHIN


@dataclass(frozen=True)
class Extras:
    """What was seen during the run, how it trained, how fast it is, and how many points it may lose."""

    evidence: Evidence | None = None
    trained: tuple[Trained, ...] = ()
    bench: Bench | None = None
    within: float = WITHIN


def extras_of(folder: Path, artifact: Artifact, within: float = WITHIN) -> Extras:
    """Return what the files in ``folder`` tell of ``artifact``; those of another model are left out.

    Raises ArtifactError for a damaged one.
    """
    evidence, bench = read_evidence(folder), read_bench(folder)
    model = artifact.config.hashes.get("model.safetensors", "")
    return Extras(
        evidence if evidence is not None and evidence.model == model else None,
        training_of(folder),
        bench if bench is not None and bench.model == model else None,
        within,
    )


def read_evidence(folder: Path) -> Evidence | None:
    """Return what a run left to be shown, None where it left nothing; ArtifactError for a damaged file."""
    path = folder / EVIDENCE
    if not exists(path):
        return None
    data = parse_json(read_file(path), path)
    with damaged(path):
        return Evidence.model_validate(data)

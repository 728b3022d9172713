"""An artifact: one frozen value, written to a folder and read from it; no pickle."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import nn

from vitq.artifact.files import damaged, digest, parse_json, shown, to_json_bytes, write_files
from vitq.artifact.metrics import RunMetrics
from vitq.artifact.ownership import require_own
from vitq.artifact.schema import SCHEMA_VERSION, ArtifactConfig
from vitq.artifact.sealing import (
    FILES,
    HASHED,
    SEAL,
    SEALED,
    make_seal,
    read_all,
    require_hashes,
    require_seal,
    sealed_hashes,
)
from vitq.artifact.tensors import describe_sites, make_site_quantizer, packed, unpacked
from vitq.errors import ArtifactError
from vitq.graph import Graph
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json
from vitq.graph.types import require_computable
from vitq.models import Preprocessing
from vitq.quantizers import Quantizer


@dataclass(frozen=True, eq=False)
class Artifact:
    """A quantized model: its graph, its frozen weights' quantizers by site, how it was made, and what it scored.

    The graph runs preprocessed images x_BCHW; its weights hold the values of their codes.
    """

    graph: Graph
    weights: Mapping[str, Quantizer]
    config: ArtifactConfig
    metrics: RunMetrics


def write(folder: Path, artifact: Artifact) -> Artifact:
    """Write an artifact into ``folder`` and return it with the hashes and the size that it has there.

    The costs of the run are not written: the same run gives the same bytes. An old seal goes first and the new one
    comes last: a folder with a seal holds a whole artifact. Raises ArtifactError where the folder cannot be written, or
    holds a file of these names that vitq did not write.
    """
    graph, weights = artifact.graph, artifact.weights
    config = artifact.config.model_copy(update={"sites": describe_sites(graph, weights)})
    files = {
        "model.safetensors": to_safetensors(packed(graph, weights, config.sites), {"format": "vitq"}),
        "graph.json": to_json_bytes(to_json(graph.module)),
    }
    config, metrics, files = _complete(files, config, artifact.metrics)
    require_own(folder, FILES)
    with suppress(OSError, ValueError):
        (folder / SEAL).unlink(missing_ok=True)
    write_files(folder, files)
    return replace(artifact, config=config, metrics=metrics)


def read(folder: Path) -> Artifact:
    """Read an artifact, its weights as the values of their codes.

    Raises ArtifactError, which names the file, where one is missing, changed, damaged or of another schema version.
    """
    files = read_all(folder)
    _require_version(folder, files)
    require_seal(folder, files)
    config = _config(folder, files)
    require_hashes(folder, files, config.hashes, HASHED, "config.json")
    return Artifact(*_model(folder, files, config), config, _metrics(folder, files))


def seal(folder: Path) -> tuple[str, ...]:
    """Do what ``vitq.seal`` says."""
    files = read_all(folder)
    _require_version(folder, files)
    config, metrics = _config(folder, files), _metrics(folder, files)
    _model(folder, files, config)
    known = {**config.hashes, **sealed_hashes(folder)}
    *_, whole = _complete({name: files[name] for name in HASHED}, config, metrics)
    write_files(folder, {name: whole[name] for name in (*SEALED, SEAL)})
    return tuple(sorted(name for name, content in files.items() if known.get(name) != digest(content)))


def _complete(
    files: Mapping[str, bytes], config: ArtifactConfig, metrics: RunMetrics
) -> tuple[ArtifactConfig, RunMetrics, dict[str, bytes]]:
    """Add configuration, metrics and seal to the two ``files`` that they speak of."""
    final = config.model_copy(update={"hashes": {name: digest(files[name]) for name in HASHED}})
    whole = {**files, "config.json": to_json_bytes(final.model_dump(mode="json"))}
    measured = metrics.model_copy(update={"size_bytes": sum(len(content) for content in whole.values())})
    whole["metrics.json"] = to_json_bytes(measured.without_costs().to_dict())
    whole[SEAL] = make_seal(whole)
    return final, measured, whole


def _model(folder: Path, files: Mapping[str, bytes], config: ArtifactConfig) -> tuple[Graph, dict[str, Quantizer]]:
    """Build the model from the content of its files; what ``config`` says of its sites has to be true of it."""
    configured = folder / "config.json"
    with damaged(configured):
        quantizers = {name: make_site_quantizer(name, site) for name, site in config.sites.items()}
    with damaged(folder / "model.safetensors"):
        tensors = unpacked(from_safetensors(files["model.safetensors"]), config.sites, quantizers)
    weights = {name: quantizer for name, quantizer in quantizers.items() if config.sites[name].weight}
    modules: dict[str, nn.Module] = {config.sites[n].module: q for n, q in quantizers.items() if n not in weights}
    written = parse_json(files["graph.json"], folder / "graph.json")
    with damaged(folder / "graph.json"), _quiet():
        module = from_json(written, tensors, modules)
        require_computable(module)
        graph = Graph(module)
    with damaged(configured):
        true = describe_sites(graph, weights)
        for name in sorted({*true, *config.sites}):
            if true.get(name) != config.sites.get(name):
                raise ValueError(f"site '{name}' is not as the graph and the tensors have it")
    return graph, weights


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging a traceback for an operation that does not fit: the error says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _require_version(folder: Path, files: Mapping[str, bytes]) -> None:
    version = parse_json(files["config.json"], folder / "config.json").get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{shown(folder / 'config.json')} has schema version {version!r}, this vitq reads {SCHEMA_VERSION}: "
            "use the vitq that wrote it"
        )


def _config(folder: Path, files: Mapping[str, bytes]) -> ArtifactConfig:
    path = folder / "config.json"
    data = parse_json(files["config.json"], path)
    with damaged(path):
        config = ArtifactConfig.model_validate(data)
        Preprocessing.from_dict(config.preprocessing)
        return config


def _metrics(folder: Path, files: Mapping[str, bytes]) -> RunMetrics:
    path = folder / "metrics.json"
    data = parse_json(files["metrics.json"], path)
    with damaged(path):
        return RunMetrics.model_validate(data)

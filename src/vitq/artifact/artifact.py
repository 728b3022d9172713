"""Save and load a quantized model: packed codes in safetensors, the graph and the configuration in JSON; no pickle."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import nn

from vitq.artifact.files import damaged, digest, parse_json, shown, to_json_bytes, write_files
from vitq.artifact.ownership import require_own
from vitq.artifact.schema import SCHEMA_VERSION, ArtifactConfig, SavedSite
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
from vitq.errors import ArtifactError
from vitq.graph import Graph
from vitq.graph.edit import quantizer_target
from vitq.graph.rebuild import from_json
from vitq.graph.serialize import to_json
from vitq.graph.types import require_computable
from vitq.quantizers import Format, Quantizer, make_quantizer, pack, unpack
from vitq.quantizers.granularity import parameter_shape

__all__ = ["describe_sites", "freeze_weights", "read", "seal", "to_json_bytes", "write_artifact", "write_files"]

CODES = ".codes"
STORED = (torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types of tensors that an artifact has: vitq writes models in float32, with constants of the other types."""


def describe_sites(graph: Graph, weights: Mapping[str, Quantizer]) -> dict[str, SavedSite]:
    """Describe the activation quantizers of ``graph`` and the frozen ``weights``, by site name."""
    sites: dict[str, SavedSite] = {}
    for name, site in graph.sites.items():
        quantizer = weights.get(name) or graph.quantizers.get(name)
        if isinstance(quantizer, Quantizer):
            path, tensor = graph.parameter(site.node) if site.is_weight else (None, None)
            sites[name] = SavedSite(
                role=str(site.role),
                format=quantizer.format.to_dict(),
                axis=quantizer.axis,
                module=quantizer_target(name),
                weight=path,
                shape=None if tensor is None else tuple(tensor.shape),
            )
    return sites


def write_artifact(
    folder: Path,
    graph: Graph,
    weights: Mapping[str, Quantizer],
    config: ArtifactConfig,
    metrics: Mapping[str, Any],
) -> tuple[ArtifactConfig, int]:
    """Write an artifact into ``folder``; return its configuration with hashes, and the bytes that the model takes.

    An old seal goes first and the new one comes last: a folder with a seal holds a whole artifact. Raises ArtifactError
    where the folder cannot be written, or holds a file of these names that vitq did not write.
    """
    files = {
        "model.safetensors": to_safetensors(_pack(graph, weights, config.sites), {"format": "vitq"}),
        "graph.json": to_json_bytes(to_json(graph.module)),
    }
    final, size, files = _complete(files, config, metrics)
    require_own(folder, FILES)
    with suppress(OSError, ValueError):
        (folder / SEAL).unlink(missing_ok=True)
    write_files(folder, files)
    return final, size


def _complete(
    files: Mapping[str, bytes], config: ArtifactConfig, metrics: Mapping[str, Any]
) -> tuple[ArtifactConfig, int, dict[str, bytes]]:
    """Add configuration, metrics and seal to the two ``files`` that they speak of."""
    final = config.model_copy(update={"hashes": {name: digest(files[name]) for name in HASHED}})
    whole = {**files, "config.json": to_json_bytes(final.model_dump(mode="json"))}
    size = sum(len(content) for content in whole.values())
    whole["metrics.json"] = to_json_bytes({**metrics, "size_bytes": size})
    whole[SEAL] = make_seal(whole)
    return final, size, whole


def read(folder: Path) -> tuple[Graph, dict[str, Quantizer], ArtifactConfig, dict[str, Any]]:
    """Read an artifact: graph with decoded weights, weight quantizers, configuration, metrics.

    Raises ArtifactError, which names the file, where one is missing, changed, damaged or of another schema version.
    """
    files = read_all(folder)
    _require_version(folder, files)
    require_seal(folder, files)
    config = _config(folder, files)
    require_hashes(folder, files, config.hashes, HASHED, "config.json")
    return *_model(folder, files, config), config, parse_json(files["metrics.json"], folder / "metrics.json")


def seal(folder: Path) -> tuple[str, ...]:
    """Do what ``vitq.seal`` says."""
    files = read_all(folder)
    _require_version(folder, files)
    config, metrics = _config(folder, files), parse_json(files["metrics.json"], folder / "metrics.json")
    _model(folder, files, config)
    known = {**config.hashes, **sealed_hashes(folder)}
    *_, whole = _complete({name: files[name] for name in HASHED}, config, metrics)
    write_files(folder, {name: whole[name] for name in (*SEALED, SEAL)})
    return tuple(sorted(name for name, content in files.items() if known.get(name) != digest(content)))


def _model(folder: Path, files: Mapping[str, bytes], config: ArtifactConfig) -> tuple[Graph, dict[str, Quantizer]]:
    """Build the model from the content of its files; what ``config`` says of its sites has to be true of it."""
    configured, tensors = folder / "config.json", folder / "model.safetensors"
    with damaged(configured):
        quantizers = {name: _quantizer(name, site) for name, site in config.sites.items()}
    with damaged(tensors):
        stored = from_safetensors(files["model.safetensors"])
        for path, tensor in stored.items():
            if tensor.dtype not in STORED:
                raise ValueError(f"tensor '{path}' is of type {str(tensor.dtype).removeprefix('torch.')}")
        for name, quantizer in quantizers.items():
            prefix = f"{config.sites[name].module}."
            own = {k.removeprefix(prefix): t for k, t in stored.items() if k.startswith(prefix)}
            quantizer.set_parameters(**own)
        weights = {name: q for name, q in quantizers.items() if config.sites[name].weight}
        for name, quantizer in weights.items():
            site = config.sites[name]
            stored[site.weight or ""] = _decode(name, quantizer, stored.pop(f"{site.weight}{CODES}"), site.shape or ())
    modules: dict[str, nn.Module] = {config.sites[n].module: q for n, q in quantizers.items() if n not in weights}
    written = parse_json(files["graph.json"], folder / "graph.json")
    with damaged(folder / "graph.json"), _quiet():
        module = from_json(written, stored, modules)
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


def _decode(name: str, quantizer: Quantizer, codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    expected = parameter_shape(shape, quantizer.axis)
    if tuple(quantizer.scale.shape) != expected:
        raise ValueError(f"'{name}' has scales of shape {tuple(quantizer.scale.shape)}, its weight needs {expected}")
    return quantizer.decode(unpack(codes, quantizer.format.bits, shape))


@torch.no_grad()
def freeze_weights(graph: Graph) -> dict[str, Quantizer]:
    """Replace every quantized weight by the value of its codes, take its quantizer out and return those by site."""
    weights: dict[str, Quantizer] = {}
    for name, site in graph.sites.items():
        quantizer = graph.quantizers.get(name)
        if site.is_weight and isinstance(quantizer, Quantizer):
            tensor = graph.parameter(site.node)[1]
            tensor.copy_(quantizer.decode(quantizer.encode(tensor)))
            graph.remove(name)
            weights[name] = quantizer
    return weights


def _pack(graph: Graph, weights: Mapping[str, Quantizer], sites: Mapping[str, SavedSite]) -> dict[str, torch.Tensor]:
    used = {str(node.target) for node in graph.module.graph.nodes if node.op == "get_attr"}
    state = graph.module.state_dict()
    tensors = {path: tensor.detach().cpu().contiguous() for path, tensor in state.items() if path in used}
    for name, site in sites.items():
        quantizer = weights.get(name) or graph.quantizers[name]
        assert isinstance(quantizer, Quantizer)
        if site.weight is not None:
            codes = quantizer.encode(state[site.weight]).cpu()
            del tensors[site.weight]
            tensors[f"{site.weight}{CODES}"] = pack(codes, quantizer.format.bits)
        for key, value in quantizer.parameters_dict().items():
            tensors[f"{site.module}.{key}"] = value.cpu().contiguous()
    return dict(sorted(tensors.items()))


def _quantizer(name: str, site: SavedSite) -> Quantizer:
    if site.module != quantizer_target(name):
        raise ValueError(f"site '{name}': module '{site.module}' where '{quantizer_target(name)}' belongs")
    quantizer = make_quantizer(Format.from_dict(site.format), site.axis)
    quantizer.site = name
    return quantizer


def _require_version(folder: Path, files: Mapping[str, bytes]) -> None:
    version = parse_json(files["config.json"], folder / "config.json").get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{shown(folder / 'config.json')} has schema version {version!r}, this vitq reads {SCHEMA_VERSION}: "
            "use the vitq that wrote it"
        )


def _config(folder: Path, files: Mapping[str, bytes]) -> ArtifactConfig:
    from vitq.models import Preprocessing

    path = folder / "config.json"
    data = parse_json(files["config.json"], path)
    with damaged(path):
        config = ArtifactConfig.model_validate(data)
        Preprocessing.from_dict(config.preprocessing)
        return config

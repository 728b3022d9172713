"""Save and load a quantized model: packed codes in safetensors, the graph and the configuration in JSON; no pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import nn

from vitq.config import SCHEMA_VERSION, ArtifactConfig, SavedSite
from vitq.errors import ArtifactError
from vitq.graph import Graph
from vitq.graph.edit import quantizer_target
from vitq.graph.serialize import from_json, to_json
from vitq.quantizers import Format, Quantizer, make_quantizer, pack, unpack

FILES = ("config.json", "graph.json", "model.safetensors")
CODES = ".codes"


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


def write_model(folder: Path, graph: Graph, weights: Mapping[str, Quantizer], config: ArtifactConfig) -> ArtifactConfig:
    """Write the model into ``folder`` and return its configuration with the hashes of its files.

    The configuration comes last: a folder with a configuration holds a whole model. Raises ArtifactError where the
    folder cannot be written.
    """
    files = {
        "model.safetensors": to_safetensors(_pack(graph, weights, config.sites), {"format": "vitq"}),
        "graph.json": to_json_bytes(to_json(graph.module)),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    final = config.model_copy(update={"hashes": hashes})
    write_files(folder, {**files, "config.json": to_json_bytes(final.model_dump(mode="json"))})
    return final


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write each file whole or not at all, in order; raise ArtifactError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            draft = folder / f"{name}.part"
            draft.write_bytes(content)
            draft.replace(folder / name)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror}; choose another folder or free some space"
        ) from error


def read(folder: Path) -> tuple[Graph, dict[str, Quantizer], ArtifactConfig, dict[str, Any]]:
    """Read an artifact: graph with decoded weights, weight quantizers, configuration, metrics.

    Raises ArtifactError where a file is missing, changed, damaged or of another schema version.
    """
    config = _read_config(folder)
    content = {name: _read(folder, name) for name in ("graph.json", "model.safetensors")}
    for name, blob in content.items():
        if hashlib.sha256(blob).hexdigest() != config.hashes.get(name):
            raise ArtifactError(f"{folder / name} does not match its hash in config.json: it was changed or cut short")
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ArtifactError(f"{folder / 'model.safetensors'} is damaged: {error}") from error
    quantizers = {name: _quantizer(name, site, stored) for name, site in config.sites.items()}
    weights = {name: q for name, q in quantizers.items() if config.sites[name].weight}
    for name, quantizer in weights.items():
        site = config.sites[name]
        codes = unpack(stored.pop(f"{site.weight}{CODES}"), quantizer.format.bits, site.shape or ())
        stored[site.weight or ""] = quantizer.decode(codes)
    modules: dict[str, nn.Module] = {config.sites[n].module: q for n, q in quantizers.items() if n not in weights}
    graph = Graph(from_json(json.loads(content["graph.json"]), stored, modules))
    metrics = folder / "metrics.json"
    return graph, weights, config, json.loads(metrics.read_text()) if metrics.exists() else {}


def size_on_disk(folder: Path) -> int:
    """Return the bytes that the model needs to be loaded: tensors, graph and configuration."""
    return sum((folder / name).stat().st_size for name in FILES)


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


def _quantizer(name: str, site: SavedSite, stored: Mapping[str, torch.Tensor]) -> Quantizer:
    quantizer = make_quantizer(Format.from_dict(site.format), site.axis)
    quantizer.site = name
    prefix = f"{site.module}."
    quantizer.set_parameters(**{k.removeprefix(prefix): t for k, t in stored.items() if k.startswith(prefix)})
    return quantizer


def _read_config(folder: Path) -> ArtifactConfig:
    if not (folder / "config.json").exists():
        raise ArtifactError(
            f"{folder} holds no vitq artifact (no config.json); give the folder that 'vitq quantize' wrote"
        )
    try:
        data = json.loads(_read(folder, "config.json"))
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{folder} has schema version {version}, this vitq reads {SCHEMA_VERSION}: use the vitq that wrote it"
            )
        return ArtifactConfig.model_validate(data)
    except (json.JSONDecodeError, ValidationError, AttributeError) as error:
        raise ArtifactError(f"{folder / 'config.json'} is damaged: {error}") from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {folder / name}: {error.strerror}; is the artifact complete?") from error


def to_json_bytes(value: Any) -> bytes:
    """Return stable, readable JSON."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

"""Weights in and out of modules: read a file without running code from it, load it strictly, hash what was
loaded.
"""

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vitq.errors import ModelError

RANDOM_WEIGHTS_SEED = 0
PICKLED_SUFFIXES = (".pth", ".pt", ".bin")
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 5


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pth``, ``.pt``, ``.bin`` with
    ``weights_only=True``.

    A training checkpoint's ``state_dict`` or ``model`` entry and the ``module.`` prefix of distributed
    training are unwrapped. Raises ModelError when the file is absent, damaged, of another type, or would
    need to run code.
    """
    if not path.is_file():
        raise ModelError(f"weights '{path}': no such file")
    if path.suffix == ".safetensors":
        try:
            return cast(dict[str, Tensor], load_file(path))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"weights '{path}' is not a readable safetensors file: {error}") from error
    if path.suffix not in PICKLED_SUFFIXES:
        raise ModelError(f"weights '{path}': expected .safetensors (or {', '.join(PICKLED_SUFFIXES)})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights '{path}' hold more than tensors and would run code when opened, so they were not; "
            "where you trust the file, save its state_dict() as safetensors and pass that"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"weights '{path}' are damaged or not a PyTorch file: {error}") from error
    return _unwrap(checkpoint, path)


def load_weights(module: nn.Module, path: Path) -> dict[str, str]:
    """Copy a weights file into ``module``, strictly, and return what an artifact says of it: file name and SHA-256."""
    _load_strictly(module, read_state_dict(path), path.name)
    return {"weights": "file", "file": path.name, "file_sha256": _file_sha256(path)}


@contextmanager
def seeded_weights() -> Iterator[None]:
    """Initialise modules inside with a fixed seed, and leave the global random generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        yield


def check_finite(module: nn.Module, origin: str) -> None:
    """Raise ModelError naming the first tensor of ``module`` that holds NaN or infinity."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{origin}: '{name}' holds NaN or infinity; the weights are damaged")


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of all names, types, shapes and bytes of ``module.state_dict()``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_strictly(module: nn.Module, state: dict[str, Tensor], file_name: str) -> None:
    """Copy ``state`` into ``module``; raise ModelError that lists every missing, unexpected or misshapen
    tensor.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = {
        name: (tuple(state[name].shape), tuple(own[name].shape))
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    }
    if missing or unexpected or misshapen:
        shapes = [
            f"{name} {file} in the file, {model} in the model" for name, (file, model) in sorted(misshapen.items())
        ]
        problems = [
            _listed("missing", missing),
            _listed("unexpected", unexpected),
            _listed("other shape", shapes),
        ]
        text = "; ".join(problem for problem in problems if problem)
        only_shapes = not (missing or unexpected)
        raise ModelError(
            f"weights '{file_name}' do not fit the model: {text}{_head_hint(misshapen) if only_shapes else ''}"
        )
    module.load_state_dict(state, strict=True)


def _file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwrap(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
            break
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise ModelError(f"weights '{path}' hold no state dict but a {type(checkpoint).__name__}")
    other = [str(name) for name, value in checkpoint.items() if not isinstance(value, Tensor)]
    if other:
        raise ModelError(f"weights '{path}': {_listed('entries that are no tensors', other)}; expected a state dict")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in checkpoint):
            checkpoint = {name.removeprefix(prefix): value for name, value in checkpoint.items()}
    return cast(dict[str, Tensor], checkpoint)


def _head_hint(misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """A hint when the tensors differ in nothing but their first dimension, and all in the same way: the
    class count.
    """
    first = {(file[:1], model[:1]) for file, model in misshapen.values()}
    rest_equal = all(file[1:] == model[1:] for file, model in misshapen.values())
    if not rest_equal or len(first) != 1:
        return ""
    (((file_classes,), (model_classes,)),) = first
    return (
        f". Only the head differs: {file_classes} classes in the file, {model_classes} in the model; "
        f"pass num_classes={file_classes} (--num-classes {file_classes})"
    )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"

"""Weights in and out of modules: read a file without running code from it, load it strictly, hash what was
loaded.
"""

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vitq.errors import ModelError, first_line

RANDOM_WEIGHTS_SEED = 0
PICKLED_SUFFIXES = (".pth", ".pt", ".bin")
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 5
_CODE = "Unsupported global|Unsupported class|unsupported GLOBAL|Can only|Trying to|not an allowed"  # torch's words


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pth``, ``.pt``, ``.bin`` with
    ``weights_only=True``.

    A training checkpoint's ``state_dict`` or ``model`` entry and the ``module.`` prefix of distributed
    training are unwrapped. Raises ModelError when the file is absent, damaged, of another type, or would
    need to run code.
    """
    if not path.is_file():
        reason = "not a regular file; give a .safetensors or .pth file" if path.exists() else "no such file"
        raise ModelError(f"weights '{path}': {reason}")
    if path.suffix not in (".safetensors", *PICKLED_SUFFIXES):
        raise ModelError(f"weights '{path}': expected .safetensors (or {', '.join(PICKLED_SUFFIXES)})")
    _check_no_text(path)
    if path.suffix == ".safetensors":
        try:
            return cast(dict[str, Tensor], load_file(path))
        except Exception as error:  # a header that lies ends in any type
            raise ModelError(f"weights '{path}' is not a readable safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about pickle protocols and TorchScript
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    return _unwrap(checkpoint, path)


def _unreadable(path: Path, error: Exception) -> ModelError:
    """Say why ``torch.load`` did not read a file: TorchScript, code, or damage."""
    text = str(error)
    if "TorchScript" in text:
        return ModelError(
            f"weights '{path}' are a TorchScript archive; save the Python model's state_dict() as safetensors"
        )
    if isinstance(error, pickle.UnpicklingError) and re.search(_CODE, text):
        return ModelError(
            f"weights '{path}' hold more than tensors and would run code when opened, so they were not; "
            "where you trust the file, save its state_dict() as safetensors and pass that"
        )
    return ModelError(f"weights '{path}' are damaged or not a PyTorch file: {first_line(error, 200)}")


def _check_no_text(path: Path) -> None:
    """Raise ModelError for a file that is text, and say which kind."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        what = "an empty file"
    elif start.startswith(b"version https://git-lfs"):
        what = "a git-LFS pointer, not the weights that it points to: run 'git lfs pull', or download the file itself"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        what = "a web page, not weights: download the file itself (its raw or resolve link)"
    elif all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        what = "text, not weights; pass what torch.save or safetensors wrote"
    else:
        return
    raise ModelError(f"weights '{path}' are {what}")


def load_weights(module: nn.Module, path: Path) -> dict[str, str]:
    """Copy a weights file into ``module``, strictly, and return what an artifact says of it: file name and SHA-256."""
    _load_strictly(module, read_state_dict(path), path.name)
    return {"weights": "file", "file": path.name, "file_sha256": _file_sha256(path)}


@contextmanager
def seeded_weights() -> Iterator[None]:
    """Initialise modules inside with a fixed seed in float32; leave the global generator and default type as they
    were.
    """
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def check_finite(module: nn.Module, origin: str) -> None:
    """Raise ModelError naming the first tensor of ``module`` that holds NaN or infinity."""
    for name, tensor in _tensors(module).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{origin}: '{name}' holds NaN or infinity; the weights are damaged")


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of all names, types, shapes and bytes of the tensors of ``module.state_dict()``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers, without the extra state that it may keep beside them."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


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
    unnamed = [repr(name) for name in checkpoint if not isinstance(name, str)]
    if unnamed:
        raise ModelError(f"weights '{path}': {_listed('keys that are no names', unnamed)}; expected a state dict")
    other = [name for name, value in checkpoint.items() if not isinstance(value, Tensor)]
    if other:
        raise ModelError(f"weights '{path}': {_listed('entries that are no tensors', other)}; expected a state dict")
    odd = [
        f"{name} ({'sparse' if value.layout != torch.strided else 'quantized' if value.is_quantized else 'complex'})"
        for name, value in checkpoint.items()
        if value.layout != torch.strided or value.is_quantized or value.is_complex()
    ]
    if odd:
        raise ModelError(f"weights '{path}': {_listed('tensors that are not plain numbers', odd)}; save dense floats")
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

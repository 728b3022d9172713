"""Checkpoints of a run: one file per finished piece of work, and a fingerprint that refuses a wrong resume."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vitq.errors import ResumeError


class Store:
    """The checkpoints of one run under ``path``; without a path nothing is kept.

    ``fingerprint`` says what the run is made of (model, data, recipe, bits, seed). Opening a folder that already
    holds checkpoints needs ``resume=True`` and an equal fingerprint, else ResumeError says what differs;
    ``overwrite=True`` without ``resume`` deletes them.
    """

    def __init__(
        self,
        path: Path | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        if path is None:
            return
        known = path / "fingerprint.json"
        wanted = json.loads(json.dumps(fingerprint or {}, sort_keys=True))
        if not known.exists() or (overwrite and not resume):
            self.clear()
        elif not resume:
            raise ResumeError(
                f"{path} holds the checkpoints of an unfinished run; continue it with --resume, "
                "or start anew with --overwrite, or choose another --out"
            )
        else:
            require_same(json.loads(known.read_text()), wanted, path)
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(known, json.dumps(wanted, indent=1, sort_keys=True).encode())

    @staticmethod
    def unfinished(path: Path) -> bool:
        """Tell whether ``path`` holds the checkpoints of a run that has not ended."""
        return (path / "fingerprint.json").exists()

    def load(self, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return (tensors, facts) saved under ``key``, or None if there is no such checkpoint."""
        if self.path is None or not self._file(key).exists():
            return None
        try:
            with safe_open(self._file(key), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts: dict[str, Any] = json.loads((file.metadata() or {}).get("facts", "{}"))
        except (SafetensorError, OSError) as error:
            raise ResumeError(
                f"checkpoint {self._file(key)} is damaged ({error}); delete it and resume again"
            ) from error
        return tensors, facts

    def save(self, key: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Save a finished piece of work at once and atomically: a kill leaves the old file or the new one."""
        if self.path is None:
            return
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(self._file(key), save(plain, {"facts": json.dumps(dict(facts or {}))}))

    def clear(self) -> None:
        """Delete all checkpoints, the fingerprint first: without it what a kill leaves is nobody's."""
        if self.path is None or not self.path.exists():
            return
        for file in (self.path / "fingerprint.json", *self.path.glob("*.safetensors"), *self.path.glob("*.part")):
            file.unlink(missing_ok=True)
        self.path.rmdir()

    def _file(self, key: str) -> Path:
        assert self.path is not None
        return self.path / f"{key.replace('/', '_')}.safetensors"


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, flush it to disk and rename it into place."""
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ResumeError(
            f"cannot write {path}: {error.strerror}; free some space or choose another --out, then --resume"
        ) from error


def require_same(known: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raise ResumeError, naming every difference, where a folder's run was made of other inputs."""
    different = sorted(k for k in {*known, *wanted} if known.get(k) != wanted.get(k))
    if different:
        detail = "; ".join(f"{k}: was {_short(known.get(k))}, now {_short(wanted.get(k))}" for k in different)
        raise ResumeError(f"{path} was started with other inputs, so resuming would mix two runs ({detail})")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

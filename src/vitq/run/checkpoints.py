"""Checkpoints of a run: one file per finished piece of work, and a fingerprint that refuses a wrong resume.

A checkpoint is a line with vitq's mark and the SHA-256 of the rest, a line of JSON (key, run, facts), and safetensors.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors.torch import load, save

from vitq.artifact.files import (
    TENSOR_BYTES,
    damaged,
    digest,
    exists,
    parse_json,
    read_file,
    reason,
    shown,
    sweep_drafts,
    to_json_bytes,
    write_files,
)
from vitq.errors import ResumeError
from vitq.run.differences import differences

FINGERPRINT = "fingerprint.json"
SUFFIX = ".checkpoint"
MARK = b"vitq-checkpoint "


class Checkpoints:
    """The checkpoints of one run under ``path``; without a path nothing is kept.

    ``fingerprint`` says what the run is made of (model, data, recipe, bits, seed). Opening a folder that already
    holds checkpoints needs ``resume=True`` and an equal fingerprint, else ResumeError says what differs;
    ``overwrite=True`` without ``resume`` deletes them. A folder with other things than checkpoints of vitq is refused.
    """

    def __init__(
        self,
        path: Path | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path, self._prefix = path, ""
        if path is None:
            return
        wanted: dict[str, Any] = json.loads(json.dumps(fingerprint or {}, sort_keys=True))
        self._run = digest(to_json_bytes(wanted))
        known = require_usable(path, resume, overwrite)
        if known is None or not resume:
            self.clear()
        else:
            require_same(known, wanted, path)
        self._write(FINGERPRINT, to_json_bytes({"vitq": "run", "sha256": self._run, "run": wanted}))

    @staticmethod
    def unfinished(path: Path) -> bool:
        """Tell whether ``path`` holds the checkpoints of a run that has not ended."""
        return exists(path / FINGERPRINT)

    def under(self, prefix: str) -> "Checkpoints":
        """Return the same checkpoints, with keys that begin with ``prefix``."""
        own = copy(self)
        own._prefix = self._prefix + prefix
        return own

    def load(self, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return (tensors, facts) saved under ``key``, None if there are none; ResumeError where they are damaged."""
        key = self._prefix + key
        if self.path is None or not exists(self.path / _name(key)):
            return None
        path = self.path / _name(key)
        content = read_file(path, TENSOR_BYTES, ResumeError)
        mark, _, body = content.partition(b"\n")
        if mark != MARK + digest(body).encode():
            raise ResumeError(
                f"checkpoint {shown(path)} is damaged: it does not match its hash; "
                "delete it and resume again, which computes this piece anew"
            )
        line, _, tensors = body.partition(b"\n")
        header = parse_json(line, path, ResumeError)
        if header.get("key") != key or header.get("run") != self._run:
            raise ResumeError(
                f"checkpoint {shown(path)} is of another run or of another piece; delete it and resume again"
            )
        with damaged(path, ResumeError):
            return load(tensors), dict(header["facts"])

    def save(self, key: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Save a finished piece of work at once and atomically: a kill leaves the old file or the new one."""
        if self.path is None:
            return
        key = self._prefix + key
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"key": key, "run": self._run, "facts": dict(facts or {})}
        body = json.dumps(header).encode() + b"\n" + save(on_cpu)
        self._write(_name(key), MARK + digest(body).encode() + b"\n" + body)

    def clear(self) -> None:
        """Delete all checkpoints; see ``sweep``."""
        if self.path is not None:
            sweep(self.path)

    def _write(self, name: str, content: bytes) -> None:
        assert self.path is not None
        try:
            write_files(self.path, {name: content}, ResumeError)
        except ResumeError as error:
            raise ResumeError(f"{error}; then go on with --resume") from error


def sweep(path: Path) -> None:
    """Delete the checkpoints in ``path``, the fingerprint first: what a kill leaves then is known by its mark.

    Files that are not vitq's are left alone, and so is the folder that holds them. ResumeError where that fails.
    """
    if not exists(path):
        return
    try:
        (path / FINGERPRINT).unlink(missing_ok=True)
        for file in own_checkpoints(path):
            file.unlink(missing_ok=True)
        sweep_drafts(path)
    except OSError as error:
        raise ResumeError(f"cannot delete the checkpoints in {shown(path)}: {reason(error)}") from error
    with suppress(OSError):  # not empty: something of the user's is in it
        path.rmdir()


def require_usable(path: Path, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Return the fingerprint of the unfinished run in ``path``, None where there is none.

    ResumeError where that run is neither resumed nor overwritten, or where the folder is not vitq's.
    """
    if not Checkpoints.unfinished(path):
        require_free(path)
        return None
    known = read_fingerprint(path / FINGERPRINT)
    if not resume and not overwrite:
        raise ResumeError(
            f"{shown(path)} holds the checkpoints of an unfinished run; continue it with --resume, "
            "or start anew with --overwrite, or choose another --out"
        )
    return known


def own_checkpoints(path: Path) -> list[Path]:
    """Return the files in ``path`` that carry the mark of a checkpoint."""
    return [file for file in sorted(path.glob(f"*{SUFFIX}")) if file.is_file() and _marked(file)]


def require_free(path: Path) -> None:
    """Raise ResumeError where ``path``, which has no fingerprint, is no place for checkpoints of vitq.

    Leftovers of vitq and hidden files (``.DS_Store``) are no obstacle: the ones are swept, the others left alone.
    """
    if not exists(path):
        return
    elsewhere = "choose another --out, or move it away"
    if not path.is_dir():
        raise ResumeError(f"{shown(path)} is not a folder, so it cannot take checkpoints; {elsewhere}")
    try:
        others = {file.name for file in path.iterdir() if not file.name.startswith(".")}
        others -= {file.name for file in own_checkpoints(path)}
    except OSError as error:
        raise ResumeError(f"cannot read {shown(path)}: {reason(error)}; {elsewhere}") from error
    if others:
        raise ResumeError(
            f"{shown(path)} holds files that are not vitq's ({', '.join(sorted(others)[:3])}"
            f"{', …' if len(others) > 3 else ''}), so it is left alone; {elsewhere}"
        )


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Return what the run of a fingerprint is made of; ResumeError where the file is damaged or not vitq's."""
    try:
        content = read_file(path, error=ResumeError)
        mark = parse_json(content, path, ResumeError)
        run = mark.get("run")
        if not isinstance(run, dict) or content != to_json_bytes(
            {"vitq": "run", "sha256": digest(to_json_bytes(run)), "run": run}
        ):
            raise ResumeError(f"{shown(path)} is damaged or not vitq's")
    except ResumeError as error:
        raise ResumeError(
            f"{error}; the checkpoints beside it cannot be told from others: choose another --out, "
            f"or delete {shown(path.parent)} yourself and start anew"
        ) from error
    return run


def require_same(known: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raise ResumeError, naming every difference, where a folder's run was made of other inputs."""
    if found := differences(known, wanted):
        raise ResumeError(
            f"{shown(path)} was started with other inputs, so resuming would mix two runs ({'; '.join(found)}); "
            "give the inputs that it was started with, or choose another --out"
        )


def _marked(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(MARK)) == MARK


def _name(key: str) -> str:
    return f"{quote(key, safe=' ')}{SUFFIX}"

"""The seal of an artifact: hashes through which a changed byte in any file of the model is noticed.

``seal.json`` holds the SHA-256 of ``config.json`` and ``metrics.json``, ``config.json`` that of ``graph.json`` and
``model.safetensors``. The seal is written last and equals its own canonical form, so it is whole or refused.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vitq.artifact.files import TENSOR_BYTES, digest, exists, parse_json, read_file, shown, to_json_bytes
from vitq.artifact.ownership import is_own
from vitq.errors import ArtifactError

SEAL = "seal.json"
SEALED = ("config.json", "metrics.json")
HASHED = ("graph.json", "model.safetensors")
FILES = (*HASHED, *SEALED, SEAL)
"""The files of an artifact, in the order in which they are written."""


def is_artifact(path: Path) -> bool:
    """Tell whether ``path`` is a folder with an artifact, whole or not; one with only a foreign config.json is none."""
    return exists(path / SEAL) or exists(path / "graph.json") or is_own(path / "config.json")


def make_seal(files: Mapping[str, bytes]) -> bytes:
    """Return the content of the seal over the files of ``SEALED``."""
    return to_json_bytes({"vitq": "artifact", "sha256": {name: digest(files[name]) for name in SEALED}})


def read_all(folder: Path) -> dict[str, bytes]:
    """Return the content of every file but the seal; ArtifactError where one cannot be read."""
    if not is_artifact(folder):
        raise ArtifactError(
            f"{shown(folder)} holds no vitq artifact (no config.json); give the folder that 'vitq quantize' wrote"
        )
    return {name: read_file(folder / name, TENSOR_BYTES) for name in HASHED} | {
        name: read_file(folder / name) for name in SEALED
    }


def require_seal(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raise ArtifactError where ``config.json`` or ``metrics.json`` is not what the seal was put on."""
    path = folder / SEAL
    if not exists(path):
        raise ArtifactError(
            f"{shown(path)} is missing: the artifact was not written whole, or by an older vitq; "
            f"'vitq seal {shown(folder)}' checks what is there and seals it"
        )
    content = read_file(path)
    seal = parse_json(content, path)
    if content != to_json_bytes(seal) or {**seal, "sha256": None} != {"vitq": "artifact", "sha256": None}:
        raise ArtifactError(f"{shown(path)} is damaged: it is not what vitq wrote; {remedy(folder)}")
    require_hashes(folder, files, seal["sha256"], SEALED, SEAL)


def sealed_hashes(folder: Path) -> dict[str, object]:
    """Return the hashes of the seal, none where it cannot be read."""
    with suppress(ArtifactError):
        hashes = parse_json(read_file(folder / SEAL), folder / SEAL).get("sha256")
        return dict(hashes) if isinstance(hashes, dict) else {}
    return {}


def require_hashes(
    folder: Path, files: Mapping[str, bytes], hashes: object, names: tuple[str, ...], where: str
) -> None:
    """Raise ArtifactError where the content of one of ``names`` is not that of ``hashes``, which stand in ``where``."""
    if not isinstance(hashes, Mapping) or set(hashes) != set(names):
        raise ArtifactError(f"{shown(folder / where)} is damaged: it needs hashes of {' and '.join(names)}")
    for name in names:
        if digest(files[name]) != hashes[name]:
            raise ArtifactError(
                f"{shown(folder / name)} does not match its hash in {where}: it was changed, damaged or cut short; "
                f"{remedy(folder)}"
            )


def remedy(folder: Path) -> str:
    """Return what to do about a file that does not match."""
    return f"restore it, or, if the change is meant, check and seal it with 'vitq seal {shown(folder)}'"

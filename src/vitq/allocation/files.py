"""The folder of an allocation: sensitivities that answer any budget."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitq.allocate import Sensitivities
from vitq.artifact.files import damaged, digest, parse_json, read_file, to_json_bytes, write_files
from vitq.errors import ArtifactError
from vitq.run.checkpoints import require_same

FILE = "sensitivities.json"


def is_allocation(folder: Path) -> bool:
    """Tell whether ``folder`` holds sensitivities."""
    return (folder / FILE).is_file()


def read_sensitivities(folder: Path) -> Sensitivities:
    """Read the sensitivities in ``folder``; ArtifactError where they are missing, damaged or edited."""
    path = folder / FILE
    data = parse_json(read_file(path), path)
    with damaged(path):
        mark, own = data.pop("vitq"), data.pop("sha256")
        if mark != "sensitivities" or digest(to_json_bytes(data)) != own:
            raise ArtifactError("its hash is not that of its content; measure again")
        return Sensitivities.from_dict(data)


def write_sensitivities(folder: Path, found: Sensitivities) -> None:
    """Write ``found`` into ``folder``, where ``read_sensitivities`` finds it."""
    write_files(folder, {FILE: _sealed(found)})


def _sealed(found: Sensitivities) -> bytes:
    data = found.to_dict()
    return to_json_bytes({"vitq": "sensitivities", "sha256": digest(to_json_bytes(data)), **data})


def known_sensitivities(folder: Path, about: Mapping[str, Any]) -> Sensitivities | None:
    """Return what ``folder`` holds, if it was measured on the same; ResumeError where it was not."""
    if not is_allocation(folder):
        return None
    found = read_sensitivities(folder)
    require_same(found.about, json.loads(json.dumps(about)), folder)
    return found

"""Artifacts on a model hub: pushed with their card, loaded by name. Only an artifact's own files are fetched."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub

from vitq.artifact.artifact import Artifact, write
from vitq.artifact.files import write_files
from vitq.artifact.sealing import FILES
from vitq.errors import ArtifactError, first_line

PREFIXES = ("hf-hub:", "hf_hub:")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
CARD = "README.md"


def is_hub_name(path: Path) -> bool:
    """Whether a path names a repository of a hub: ``hf-hub:owner/name``."""
    return str(path).startswith(PREFIXES)


def fetch(name: str) -> Path:
    """Return the folder that ``hf-hub:owner/name``, with ``@revision`` behind it, was downloaded to.

    ArtifactError where there is no such repository, no network, or no artifact in it.
    """
    repository, _, revision = name.partition(":")[2].partition("@")
    _require_repository(repository)
    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # of the hub's client, and of the network
        raise ArtifactError(
            f"'{name[:200]}' could not be fetched from the hub ({first_line(error)}); check the name, the network, and "
            "for a private one the token (huggingface-cli login)"
        ) from error
    return Path(folder)


def push(
    artifact: Artifact,
    repository: str,
    card: Callable[[Artifact, str], str],
    *,
    private: bool,
    revision: str | None,
    message: str | None,
) -> str:
    """Upload an artifact and its card to ``owner/name``, which is made where it is not there, and return its address.

    ``card`` writes the card of the artifact as it is uploaded, which loads by the second argument. ArtifactError where
    uploading fails.
    """
    repository = repository.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    _require_repository(repository)
    with TemporaryDirectory() as place:
        folder = Path(place)
        written = write(folder, artifact)
        write_files(folder, {CARD: card(written, f"{PREFIXES[0]}{repository}").encode("utf-8", "replace")})
        try:
            hub = huggingface_hub.HfApi()
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message or f"vitq: {artifact.config.bits}",
                allow_patterns=[*FILES, CARD],
            )
        except Exception as error:  # of the hub's client, and of the network
            raise ArtifactError(
                f"cannot push to '{repository}' ({first_line(error)}); check the name, the network and the token "
                "(huggingface-cli login)"
            ) from error
    return f"{huggingface_hub.constants.ENDPOINT}/{repository}"


def _require_repository(name: str) -> None:
    if not REPOSITORY.fullmatch(name):
        raise ArtifactError(f"'{name[:200]}' is no repository of a hub; it has the form owner/name")

"""The folder of one run, ``out``: claimed before any work, held while it runs, and left with a finished artifact."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitq.artifact.files import exists, reason, shown, sweep_drafts
from vitq.artifact.ownership import MARKS, is_own, require_own
from vitq.artifact.sealing import FILES
from vitq.errors import ArtifactError, VitqError
from vitq.run.checkpoints import Checkpoints, require_usable, sweep
from vitq.run.lock import locked


@dataclass(frozen=True)
class Workspace:
    """Where one run keeps its log, its checkpoints and its artifact; without a ``folder`` nothing is kept."""

    folder: Path | None
    resume: bool = False
    overwrite: bool = False
    finished: bool = False
    """Whether the folder holds the artifact of a run that has ended, and that is wanted."""

    @property
    def log(self) -> Path | None:
        """Path of the event log; a folder that is finished gets no more lines."""
        return None if self.folder is None or self.finished else self.folder / "events.jsonl"

    def checkpoints(self, fingerprint: Mapping[str, Any]) -> Checkpoints:
        """Return the checkpoints of the run with this fingerprint."""
        path = None if self.folder is None else _checkpoints(self.folder)
        return Checkpoints(path, fingerprint, self.resume, self.overwrite)


@contextmanager
def open_workspace(out: str | Path | None, resume: bool, overwrite: bool) -> Iterator[Workspace]:
    """Claim the folder of a run and hold it; a VitqError, before any work, where it cannot or must not be written.

    A folder with a finished artifact is refused unless it is to be resumed, which returns it, or overwritten. A file
    under a name that vitq writes, but that vitq did not write, is refused always.
    """
    if out is None:
        yield Workspace(None)
        return
    folder = Path(out)
    if _finished(folder) and not resume and not overwrite:
        raise ArtifactError(
            f"{shown(folder)} already holds a finished artifact; choose another --out, or --overwrite it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        why = "it is a file" if exists(folder) and not folder.is_dir() else reason(error)
        raise ArtifactError(f"cannot make the folder {shown(folder)}: {why}; choose another --out") from error
    if _finished(folder) and resume and not overwrite:
        with (
            suppress(VitqError, OSError),
            locked(folder),
        ):  # of a kill in the last clean-up; a read-only folder keeps it
            sweep(_checkpoints(folder))
            sweep_drafts(folder)
        yield Workspace(folder, resume, overwrite, finished=True)
        return
    with locked(folder):
        require_own(folder, MARKS)
        require_usable(_checkpoints(folder), resume, overwrite)
        sweep_drafts(folder)
        yield Workspace(folder, resume, overwrite)


def _finished(folder: Path) -> bool:
    own = any(is_own(folder / name) for name in reversed(FILES))
    return own and not Checkpoints.unfinished(_checkpoints(folder))


def _checkpoints(folder: Path) -> Path:
    return folder / "checkpoints"

"""An artifact goes to a hub with its card, and comes back by its name; the hub is a folder here."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import vitq
from vitq.errors import ArtifactError


class Hub:
    """A stand-in of the hub: repositories are folders, of which files that were asked for are downloaded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[dict[str, Any]] = []

    def create_repo(self, repository: str, **options: Any) -> None:
        self.asked.append(options)
        (self.root / repository).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **options: Any) -> None:
        self.asked.append(options)
        for name in allow_patterns:
            shutil.copy(folder_path / name, self.root / repo_id / name)

    def snapshot_download(self, repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append({"revision": revision})
        if not (self.root / repository).is_dir():
            raise FileNotFoundError("404 Client Error")
        place = self.root / "cache"
        shutil.copytree(self.root / repository, place, ignore=lambda _, names: set(names) - set(allow_patterns))
        return str(place)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    own = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: own)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", own.snapshot_download)
    return own


def test_what_is_pushed_loads_by_name_and_has_a_card(hub: Hub, small_artifact: Path) -> None:
    model = vitq.load(small_artifact)
    assert model.push_to_hub("me/small", private=True, message="first").endswith("/me/small")
    assert hub.asked == [{"private": True, "exist_ok": True}, {"revision": None, "commit_message": "first"}]
    (hub.root / "me/small" / "evil.py").write_text("raise SystemExit")
    again = vitq.load("hf-hub:me/small@v1")
    x_NCHW = torch.randn(3, 3, 8, 8)
    assert torch.equal(model(x_NCHW), again(x_NCHW)) and again.config == model.config
    assert hub.asked[-1] == {"revision": "v1"} and not (hub.root / "cache" / "evil.py").exists()
    assert 'vitq.load("hf-hub:me/small")' in (hub.root / "me/small" / "README.md").read_text()


def test_what_is_not_there_and_what_is_no_name_are_told(hub: Hub, small_artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="could not be fetched from the hub"):
        vitq.load("hf-hub:me/none")
    for name in ("me", "me/a/b", "../x/y", "me/a b"):
        with pytest.raises(ArtifactError, match="has the form owner/name"):
            vitq.load(f"hf-hub:{name}")
        with pytest.raises(ArtifactError, match="has the form owner/name"):
            vitq.load(small_artifact).push_to_hub(name)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("401 Client Error")

    hub.create_repo = refuse  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match=r"cannot push to 'me/small' .*401 Client Error.*token"):
        vitq.load(small_artifact).push_to_hub("me/small")

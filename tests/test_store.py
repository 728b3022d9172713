from pathlib import Path

import pytest
import torch

from vitq.errors import ResumeError
from vitq.store import Store, write_atomically


def test_keeps_tensors_and_facts(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", {"seed": 0})
    store.save("a/b", {"w": torch.arange(3.0)}, {"error": 0.5})
    tensors, facts = Store(tmp_path / "run", {"seed": 0}, resume=True).load("a/b") or ({}, {})
    assert torch.equal(tensors["w"], torch.arange(3.0))
    assert facts == {"error": 0.5}


def test_without_a_path_nothing_is_kept() -> None:
    store = Store()
    store.save("a", {"w": torch.ones(1)})
    assert store.load("a") is None


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    Store(tmp_path / "run", {"seed": 0})
    with pytest.raises(ResumeError, match="--resume"):
        Store(tmp_path / "run", {"seed": 0})


def test_overwrite_deletes_what_an_unfinished_run_left(tmp_path: Path) -> None:
    Store(tmp_path / "run", {"seed": 0}).save("a", {"w": torch.ones(1)})
    assert Store.unfinished(tmp_path / "run")
    assert Store(tmp_path / "run", {"seed": 1}, overwrite=True).load("a") is None


def test_checkpoints_without_a_fingerprint_are_nobodys(tmp_path: Path) -> None:
    Store(tmp_path / "run", {"seed": 0}).save("a", {"w": torch.ones(1)})
    (tmp_path / "run" / "fingerprint.json").unlink()  # as where a kill cuts off ``clear``
    assert not Store.unfinished(tmp_path / "run")
    assert Store(tmp_path / "run", {"seed": 1}, resume=True).load("a") is None


def test_a_wrong_resume_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    Store(tmp_path / "run", {"seed": 0, "bits": "w4a4"})
    with pytest.raises(ResumeError, match='bits: was "w4a4", now "w3a3"'):
        Store(tmp_path / "run", {"seed": 0, "bits": "w3a3"}, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", {})
    store.save("a", {"w": torch.ones(4)})
    (tmp_path / "run" / "a.safetensors").write_bytes(b"half")
    with pytest.raises(ResumeError, match=r"a\.safetensors is damaged"):
        store.load("a")


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResumeError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x", b"content")


def test_clear_removes_everything(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", {})
    store.save("a", {"w": torch.ones(1)})
    store.clear()
    assert not (tmp_path / "run").exists()

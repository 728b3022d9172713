import json
import random
from pathlib import Path

import pytest
import torch

from vitq.artifact.files import to_json_bytes, write_files
from vitq.errors import ResumeError
from vitq.run.checkpoints import Checkpoints, sweep
from vitq.run.differences import differences


def test_saves_and_loads_tensors_and_facts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", {"seed": 0})
    checkpoints.save("a/b", {"w": torch.arange(3.0)}, {"error": 0.5})
    checkpoints.save("a_b", {}, {})
    tensors, facts = Checkpoints(tmp_path / "run", {"seed": 0}, resume=True).load("a/b") or ({}, {})
    assert torch.equal(tensors["w"], torch.arange(3.0))
    assert facts == {"error": 0.5}


def test_without_a_path_nothing_is_kept() -> None:
    checkpoints = Checkpoints()
    checkpoints.save("a", {"w": torch.ones(1)})
    assert checkpoints.load("a") is None


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "run", {"seed": 0})
    with pytest.raises(ResumeError, match="--resume"):
        Checkpoints(tmp_path / "run", {"seed": 0})


def test_overwrite_deletes_what_an_unfinished_run_left(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "run", {"seed": 0}).save("a", {"w": torch.ones(1)})
    assert Checkpoints.unfinished(tmp_path / "run")
    assert Checkpoints(tmp_path / "run", {"seed": 1}, overwrite=True).load("a") is None


def test_what_a_kill_in_the_clean_up_leaves_is_swept(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "run", {"seed": 0}).save("a", {"w": torch.ones(1)})
    (tmp_path / "run" / "fingerprint.json").unlink()  # as where a kill cuts off ``clear``
    (tmp_path / "run" / ".b.checkpoint.vitq-part").write_bytes(b"half")
    assert not Checkpoints.unfinished(tmp_path / "run")
    assert Checkpoints(tmp_path / "run", {"seed": 1}, resume=True).load("a") is None
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["fingerprint.json"]


def test_a_wrong_resume_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "run", {"seed": 0, "bits": "w4a4"})
    with pytest.raises(ResumeError, match='bits: was "w4a4", now "w3a3"'):
        Checkpoints(tmp_path / "run", {"seed": 0, "bits": "w3a3"}, resume=True)


@pytest.mark.parametrize("side", ["a" * 200, [0] * 100, {str(i): "same" for i in range(99)}])
def test_a_difference_is_shown_even_deep_inside_or_late_in_a_long_value(side: object) -> None:
    old = {"recipe": {"steps": [side, {"reconstruct": {"steps": 500}}]}, "note": "x" * 100 + "one"}
    new = {"recipe": {"steps": [side, {"reconstruct": {"steps": 300}}]}, "note": "x" * 100 + "two"}
    told = "; ".join(differences(old, new))
    assert "recipe.steps[1].reconstruct.steps: was 500, now 300" in told
    assert 'one"' in told and 'two"' in told and "same" not in told and len(told) < 200
    assert differences({"a": 1}, {}) == ["a: was 1, now absent"]
    assert differences(old, old) == []
    assert differences(list(range(99)), [])[-1] == "and 87 more"


def test_a_cut_never_makes_two_values_look_the_same() -> None:
    draw = random.Random(0)
    for _ in range(200):
        old = "".join(draw.choices("ab", k=draw.randrange(1, 200)))
        new = old[: draw.randrange(len(old))] + "".join(draw.choices("abc", k=draw.randrange(90)))
        if old != new:
            was, now = differences(old, new)[0].removeprefix("all: was ").split(", now ")
            assert was != now


@pytest.mark.parametrize("file", ["a.checkpoint", "fingerprint.json"])
def test_every_flipped_bit_is_noticed_and_the_file_is_named(tmp_path: Path, file: str) -> None:
    made_of = {"seed": 0, "recipe": {"steps": [1.5, None, "é"]}}
    checkpoints = Checkpoints(tmp_path / "run", made_of)
    checkpoints.save("a", {"w": torch.ones(4)}, {"loss": 0.25})
    path = tmp_path / "run" / file
    content = path.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with pytest.raises(ResumeError, match=file.replace(".", r"\.")):
            checkpoints.load("a") if file == "a.checkpoint" else Checkpoints(tmp_path / "run", made_of, resume=True)


@pytest.mark.parametrize("content", [b"", b"half", b"vitq-checkpoint ", b"\xff\xfe", b"vitq-checkpoint 00\n{}\n"])
def test_a_damaged_checkpoint_is_named_and_may_be_deleted(tmp_path: Path, content: bytes) -> None:
    checkpoints = Checkpoints(tmp_path / "run", {})
    checkpoints.save("a", {"w": torch.ones(4)})
    (tmp_path / "run" / "a.checkpoint").write_bytes(content)
    with pytest.raises(ResumeError, match=r"a\.checkpoint is damaged: .*; delete it and resume again"):
        checkpoints.load("a")
    (tmp_path / "run" / "a.checkpoint").unlink()
    assert Checkpoints(tmp_path / "run", {}, resume=True).load("a") is None


def test_a_checkpoint_of_another_run_or_piece_is_refused(tmp_path: Path) -> None:
    other, own = Checkpoints(tmp_path / "other", {"seed": 1}), Checkpoints(tmp_path / "own", {"seed": 0})
    other.save("a", {})
    own.save("b", {})
    (tmp_path / "other" / "a.checkpoint").rename(tmp_path / "own" / "a.checkpoint")
    (tmp_path / "own" / "b.checkpoint").rename(tmp_path / "own" / "c.checkpoint")
    for key in ("a", "c"):
        with pytest.raises(ResumeError, match="of another run or of another piece"):
            own.load(key)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1]", b"", b"3", b"null", b"\xff", b"{}", b'{"seed": 0}', b"[" * 9999, b'{"run": {}}', b'{"a":' * 9999],
)
@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_fingerprint_that_is_not_vitqs_is_named_and_nothing_is_deleted(
    tmp_path: Path, content: bytes, how: dict[str, bool]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "fingerprint.json").write_bytes(content)
    (tmp_path / "run" / "epoch10.safetensors").write_bytes(b"weeks of work")
    with pytest.raises(ResumeError, match=r"fingerprint\.json .*another --out"):
        Checkpoints(tmp_path / "run", {}, **how)
    assert len(list((tmp_path / "run").iterdir())) == 2


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["epoch10.safetensors", "last.checkpoint", "a.part", "folder"])
def test_a_folder_of_the_users_is_left_alone(tmp_path: Path, name: str, how: dict[str, bool]) -> None:
    (tmp_path / "run" / "folder").mkdir(parents=True)
    (tmp_path / "run" / name).exists() or (tmp_path / "run" / name).write_bytes(b"weeks of work")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ResumeError, match=r"not vitq's .*left alone"):
        Checkpoints(tmp_path / "run", {}, **how)
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoints_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ResumeError, match="run is not a folder"):
        Checkpoints(tmp_path / "run", {}, overwrite=True)
    assert (tmp_path / "run").read_text() == "mine"


def test_hidden_files_are_no_obstacle_and_stay(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").write_bytes(b"x")
    checkpoints = Checkpoints(tmp_path / "run", {})
    checkpoints.save("a", {})
    (tmp_path / "run" / "notes.checkpoint").write_bytes(b"mine")
    checkpoints.clear()
    assert {file.name for file in (tmp_path / "run").iterdir()} == {".DS_Store", "notes.checkpoint"}


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResumeError, match="cannot write"):
        write_files(tmp_path / "file", {"x": b"content"}, ResumeError)


def test_a_draft_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".x.vitq-part").symlink_to(tmp_path / "precious")
    write_files(tmp_path, {"x": b"content"})
    assert ((tmp_path / "precious").read_text(), (tmp_path / "x").read_bytes()) == ("mine", b"content")


def test_text_that_is_not_utf8_is_written_and_read_as_it_is() -> None:
    assert json.loads(to_json_bytes({"name": "a\udcff"})) == {"name": "a\udcff"}


def test_clear_removes_everything(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", {})
    checkpoints.save("a", {"w": torch.ones(1)})
    checkpoints.clear()
    assert not (tmp_path / "run").exists()
    sweep(tmp_path / "run")

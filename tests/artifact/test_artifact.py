"""A damaged or edited artifact is noticed and named; nothing of the user's is overwritten; a finished model is kept."""

import errno
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitq
from vitq.artifact import artifact
from vitq.artifact.files import digest, to_json_bytes
from vitq.artifact.sealing import FILES, HASHED, SEALED, make_seal
from vitq.cli.errors import ARTIFACT, RUN_FAILED, describe
from vitq.errors import ArtifactError, ResumeError, UnsavedError
from vitq.run.events import Events
from vitq.run.workspace import open_workspace
from vitq.verbs.finish import finish as end


@pytest.fixture
def folder(small_artifact: Path, tmp_path: Path) -> Path:
    """A copy of an artifact, to be damaged."""
    for name in FILES:
        shutil.copy(small_artifact / name, tmp_path)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(to_json_bytes(content))


def forge(folder: Path) -> None:
    """Give every file the hash that it has, as whoever makes a hostile artifact can."""
    files = {name: (folder / name).read_bytes() for name in (*HASHED, *SEALED)}
    try:
        content = json.loads(files["config.json"])
        content["hashes"] = {name: digest(files[name]) for name in HASHED}
        files["config.json"] = to_json_bytes(content)
        (folder / "config.json").write_bytes(files["config.json"])
    except (ValueError, TypeError, RecursionError):
        pass
    (folder / "seal.json").write_bytes(make_seal(files))


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_in_any_file_is_noticed_and_the_file_is_named(folder: Path, file: str) -> None:
    path, draw = folder / file, random.Random(0)
    content = path.read_bytes()
    for position in {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(150))}:
        flipped = bytearray(content)
        flipped[position] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError, match=file.replace(".", r"\.")):
            vitq.load(folder)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_file_is_named(folder: Path, file: str, length: int) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:length])
    with pytest.raises(ArtifactError, match=file.replace(".", r"\.")):
        vitq.load(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ArtifactError, match=rf"{file} is missing".replace(".", r"\.")):
        vitq.load(folder)
    with pytest.raises(ArtifactError, match=rf"{file} is missing".replace(".", r"\.")):
        vitq.evaluate(folder, (torch.zeros(1, 3, 8, 8), torch.zeros(1).long()), progress=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_regular_file_is_named_and_not_waited_for(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(ArtifactError, match="is no regular file"):
        vitq.load(folder)
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(ArtifactError, match="is no regular file"):
        vitq.load(folder)


def test_an_edit_is_refused_until_it_is_sealed(folder: Path) -> None:
    assert vitq.seal(folder) == ()
    before = vitq.load(folder)
    edit(folder / "config.json", lambda c: c["preprocessing"].update(std=[1.0, 2.0, 3.0]))
    with pytest.raises(ArtifactError, match=r"config\.json does not match its hash .*'vitq seal "):
        vitq.load(folder)
    assert vitq.seal(folder) == ("config.json",)
    after = vitq.load(folder)
    assert list(after.config.preprocessing["std"]) == [1.0, 2.0, 3.0]
    x_BCHW = torch.ones(2, 3, 8, 8)
    assert torch.equal(before(x_BCHW), after(x_BCHW))
    tensors = load_file(folder / "model.safetensors")
    tensors["head.bias"] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "vitq"})
    assert vitq.seal(folder) == ("model.safetensors",)
    assert not torch.equal(before(x_BCHW), vitq.load(folder)(x_BCHW))


def test_the_command_line_seals_and_refuses(folder: Path, vitq_command: Callable[..., Any]) -> None:
    (folder / "seal.json").unlink()
    result = vitq_command("seal", str(folder), "--json")
    assert json.loads(result.stdout)["changed"] == ["config.json", "metrics.json"]
    edit(folder / "config.json", lambda c: c.update(bits=3))
    result = vitq_command("seal", str(folder))
    assert result.exit_code == ARTIFACT and "config.json is damaged: bits" in result.stderr


@pytest.fixture
def vitq_command() -> Callable[..., Any]:
    from typer.testing import CliRunner

    from vitq.cli import app

    return lambda *arguments: CliRunner().invoke(app, list(arguments))


SITE = "fc/weight"
CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "weight elsewhere": lambda c: c["sites"][SITE].update(weight="head.weight"),
    "weight nowhere": lambda c: c["sites"][SITE].update(weight="../../etc/passwd"),
    "weight of an activation": lambda c: c["sites"]["fc/input"].update(weight="fc.weight"),
    "no weight": lambda c: c["sites"][SITE].update(weight=None),
    "module elsewhere": lambda c: c["sites"][SITE].update(module="quantizers.head__weight"),
    "module above": lambda c: c["sites"]["fc/input"].update(module="__class__.__init__"),
    "negative shape": lambda c: c["sites"][SITE].update(shape=[-8, -8]),
    "shape with zero": lambda c: c["sites"][SITE].update(shape=[0, 8]),
    "huge shape": lambda c: c["sites"][SITE].update(shape=[2**62, 2**62]),
    "other shape": lambda c: c["sites"][SITE].update(shape=[4, 16]),
    "flat shape": lambda c: c["sites"][SITE].update(shape=[64]),
    "no shape": lambda c: c["sites"][SITE].update(shape=None),
    "shape of text": lambda c: c["sites"][SITE].update(shape="8x8"),
    "fewer bits": lambda c: c["sites"][SITE]["format"].update(bits=2),
    "fewer bits of an activation": lambda c: c["sites"]["fc/input"]["format"].update(bits="2"),
    "many bits": lambda c: c["sites"][SITE]["format"].update(bits=10**30),
    "no such format": lambda c: c["sites"][SITE]["format"].update(name="os.system"),
    "format with a key": lambda c: c["sites"][SITE]["format"].update({"x" * 3000: 1}),
    "format of numbers": lambda c: c["sites"][SITE].update(format={"name": 3, "granularity": []}),
    "axis": lambda c: c["sites"][SITE].update(axis=7),
    "negative axis": lambda c: c["sites"][SITE].update(axis=-9),
    "role": lambda c: c["sites"][SITE].update(role="probabilities"),
    "missing site": lambda c: c["sites"].pop(SITE),
    "new site": lambda c: c["sites"].update({"x/weight": c["sites"][SITE]}),
    "sites as a list": lambda c: c.update(sites=[1]),
    "no sites": lambda c: c.pop("sites"),
    "unknown key": lambda c: c.update(extra=1),
    "std of zero": lambda c: c["preprocessing"].update(std=None),
    "no preprocessing": lambda c: c.update(preprocessing=3),
    "preprocessing with a key": lambda c: c["preprocessing"].update(code="x"),
    "classes": lambda c: c["source"].update(num_classes="ten"),
    "negative classes": lambda c: c["source"].update(num_classes=-1),
    "version": lambda c: c.update(schema_version=[1]),
    "seed": lambda c: c.update(seed={}),
}


@pytest.mark.parametrize("change", CONFIGS)
def test_a_forged_configuration_is_refused_by_name(folder: Path, change: str) -> None:
    edit(folder / "config.json", CONFIGS[change])
    forge(folder)
    for verb in (vitq.load, vitq.seal):
        with pytest.raises(ArtifactError, match=str(folder)) as caught:
            verb(folder)
        assert len(str(caught.value)) < 900


BLOBS = {
    "a number": b"3",
    "null": b"null",
    "a list": b"[1]",
    "a brace": b"{",
    "nothing": b"",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": b"\xff\xfe{\x00\x00",
    "deep lists": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "too deep for Python": b"[" * 200_000,
    "a long number": b'{"schema_version": ' + b"9" * 6000 + b"}",
    "NUL": b"\x00" * 100,
}


@pytest.mark.parametrize("blob", BLOBS)
@pytest.mark.parametrize("file", ["config.json", "graph.json", "metrics.json", "seal.json"])
def test_a_forged_file_that_is_no_json_object_is_refused_by_name(folder: Path, file: str, blob: str) -> None:
    (folder / file).write_bytes(BLOBS[blob])
    if file != "seal.json":
        forge(folder)
    with pytest.raises(ArtifactError, match=file.replace(".", r"\.")):
        vitq.load(folder)


def scale_key(tensors: dict[str, torch.Tensor]) -> str:
    return next(key for key in tensors if key.endswith("fc__weight.scale"))


TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "NaN in a scale": lambda t: t[scale_key(t)].fill_(float("nan")),
    "negative scale": lambda t: t[scale_key(t)].neg_(),
    "no scale": lambda t: t.pop(scale_key(t)),
    "scale for other channels": lambda t: t.update({scale_key(t): torch.ones(3, 1)}),
    "scale of a million channels": lambda t: t.update({
        k: torch.ones(10**6, 1, 1) for k in t if k.startswith(scale_key(t).removesuffix("scale"))
    }),
    "empty scale": lambda t: t.update({scale_key(t): torch.ones(0)}),
    "unknown parameter": lambda t: t.update({scale_key(t) + "s": torch.ones(1)}),
    "no codes": lambda t: t.pop("fc.weight.codes"),
    "codes of another type": lambda t: t.update({"fc.weight.codes": torch.ones(32)}),
    "few codes": lambda t: t.update({"fc.weight.codes": torch.ones(3, dtype=torch.uint8)}),
    "no bias": lambda t: t.pop("head.bias"),
    "complex bias": lambda t: t.update({"head.bias": t["head.bias"] * 1j}),
    "half bias": lambda t: t.update({"head.bias": t["head.bias"].half()}),
    "double bias": lambda t: t.update({"head.bias": t["head.bias"].double()}),
    "whole numbers in a norm": lambda t: t.update({"norm.weight": t["norm.weight"].long()}),
    "deep bias": lambda t: t.update({"head.bias": t["head.bias"].reshape([1] * 9 + [5])}),
    "bias of another shape": lambda t: t.update({"head.bias": torch.ones(7)}),
}  # fmt: skip


@pytest.mark.parametrize("change", TENSORS)
def test_forged_tensors_are_refused_by_name(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    TENSORS[change](tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "vitq"})
    forge(folder)
    with pytest.raises(ArtifactError, match=r"(model\.safetensors|graph\.json) is damaged"):
        vitq.load(folder)


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


def test_torch_logs_no_traceback_beside_the_error(folder: Path, request: pytest.FixtureRequest) -> None:
    records = Records()
    logging.getLogger().addHandler(records)
    request.addfinalizer(lambda: logging.getLogger().removeHandler(records))
    tensors = load_file(folder / "model.safetensors")
    tensors["head.bias"] = torch.ones(0)
    save_file(tensors, folder / "model.safetensors", {"format": "vitq"})
    forge(folder)
    with pytest.raises(ArtifactError):
        vitq.load(folder)
    assert not records.kept


@pytest.mark.parametrize("blob", [b"", b"{}", b"\xff" * 100, (2**60).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]"])
def test_tensors_in_another_format_are_refused_by_name(folder: Path, blob: bytes) -> None:
    (folder / "model.safetensors").write_bytes(blob)
    forge(folder)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        vitq.load(folder)


@pytest.mark.parametrize("name", ["nowhere", "/dev/null", "/proc/x"])
def test_a_path_that_leads_nowhere_holds_no_artifact(name: str) -> None:
    with pytest.raises(ArtifactError, match="holds no vitq artifact"):
        vitq.load(name)


HUGGING_FACE = b'{"model_type": "vit", "hidden_size": 192}'


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", HUGGING_FACE),
        ("graph.json", b"{}"),
        ("model.safetensors", b"\x02" + bytes(7) + b"{}"),
        ("metrics.json", b'{"size_bytes": 3}'),
        ("seal.json", b'{"animal": true}'),
        ("run.json", b'{"seconds": 3, "mine": 1}'),
        ("report.html", b"<html>my thesis</html>"),
        ("events.jsonl", b'{"mine": 1}\n'),
    ],
)
def test_a_file_that_vitq_did_not_write_is_never_overwritten(
    small_artifact: Path, tmp_path: Path, how: dict[str, bool], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with (
        pytest.raises(ArtifactError, match=f"{name} was not written by vitq"),
        open_workspace(tmp_path, how.get("resume", False), how.get("overwrite", False)),
    ):
        pass
    if name in FILES:
        with pytest.raises(ArtifactError, match=f"{name} was not written by vitq"):
            vitq.load(small_artifact).save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {name: content}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["epoch10.safetensors", "best.checkpoint"])
def test_checkpoints_of_the_users_own_stay(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(b"weeks of work")
    with pytest.raises(ResumeError, match=name), open_workspace(tmp_path, False, overwrite):
        pass
    assert [file.name for file in tmp_path.rglob("*")] == ["checkpoints", name]


def test_checkpoints_of_the_users_own_stay_beside_a_finished_artifact(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch10.safetensors").write_bytes(b"weeks of work")
    with open_workspace(folder, resume=True, overwrite=False) as space:
        assert space.finished
    assert (folder / "checkpoints" / "epoch10.safetensors").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "/dev/null", "link"])
def test_an_out_that_cannot_be_a_folder_is_refused_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(ArtifactError, match=r"cannot make the folder .* choose another --out") as caught:
        vitq.quantize("no model is loaded for this", [], out=tmp_path / place, progress=False)
    assert len(str(caught.value)) < 500
    assert (tmp_path / "file").read_text() == "mine"


def test_an_out_that_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Any, flags: int, *mode: int) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ResumeError, match=r"cannot write in .*Read-only"), open_workspace(tmp_path, False, False):
        pass


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    told = rf"run is in use by another run \(process {os.getpid()} on .*, since 2"
    with open_workspace(tmp_path / "run", False, False):
        with pytest.raises(ResumeError, match=told), open_workspace(tmp_path / "run", False, True):
            pass
        with open_workspace(tmp_path / "other", False, False):
            pass
    with open_workspace(tmp_path / "run", False, False):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_an_artifact_without_its_seal_is_not_overwritten_unasked(folder: Path) -> None:
    (folder / "seal.json").unlink()
    with pytest.raises(ArtifactError, match="already holds"), open_workspace(folder, False, False):
        pass


def finish(small_artifact: Path, out: Path, stray: str = "") -> Events:
    """End a run with a finished model, and return what it said."""
    model = vitq.load(small_artifact)
    with open_workspace(out, False, False) as space, Events(space.log) as events:
        checkpoints = space.checkpoints({"seed": 0})
        if stray:
            (out / "checkpoints" / stray).write_text("mine")
        end(model, out, events, checkpoints.clear)
    return events


def test_a_finished_model_is_saved_whatever_fails_afterwards(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("vitq.verbs.finish.write_report", fail)
        events = finish(small_artifact, tmp_path / "run", stray="notes.txt")
    assert [warning.name for warning in events.warnings] == ["report"]
    assert "No space left on device; the artifact is saved" in events.warnings[0].message
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (small_artifact / name).read_bytes(), name
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == ["notes.txt"]


def test_a_model_that_cannot_be_saved_comes_with_the_error(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise ArtifactError("cannot write x") from error

    with monkeypatch.context() as patch, pytest.raises(UnsavedError, match="--resume") as caught:
        patch.setattr(artifact, "write_files", full)
        finish(small_artifact, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "fingerprint.json").exists()
    told = describe(caught.value)
    assert (told.kind, told.exit_code) == ("DiskFull", RUN_FAILED)
    caught.value.model.save(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "seal.json").read_bytes() == (small_artifact / "seal.json").read_bytes()


def test_a_log_that_cannot_be_written_costs_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with Events(tmp_path / "log") as events:
        events.warn("named", "photo\udcff.jpg")
    assert [warning.name for warning in events.warnings] == ["event-log", "named"]
    with Events(tmp_path / "log2") as events:
        events.log("file", path="photo\udcff.jpg")
        events.warn("named", "photo\udcff.jpg")
    assert len((tmp_path / "log2").read_text(encoding="utf-8").splitlines()) == 2

"""Where an export's files go: the place is checked before the work, and a kill leaves nothing broken."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxscript")

from vitq.errors import ArtifactError, ExportError, VitqError
from vitq.export.files import check_place, write

OLD, NEW = ({"m.bin": f"{age} bin".encode(), "m.xml": f"vitq.target {age}".encode()} for age in ("old", "new"))


def _kinds(folder: Path) -> dict[str, Path]:
    (folder / "file").write_text("")
    (folder / "folder.onnx").mkdir()
    return {
        "under a file": folder / "file" / "m.onnx",
        "deep under a file": folder / "file" / "a" / "b" / "m.onnx",
        "a folder": folder / "folder.onnx",
        "too long": folder / ("x" * 5000 + ".onnx"),
        "a NUL": folder / "a\0b.onnx",
        "not a real folder": Path("/proc/none/m.onnx"),
    }


@pytest.mark.parametrize(
    "kind", ["under a file", "deep under a file", "a folder", "too long", "a NUL", "not a real folder"]
)
def test_an_unwritable_place_is_told_before_the_images_are_read(
    quantized: Callable[..., Any], images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("the images were read before the refusal")

    monkeypatch.setattr("vitq.data.draw_calibration", read)
    if kind == "not a real folder" and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    model = quantized("vit", "w8a8", target="onnxruntime")
    with pytest.raises(VitqError, match=r"cannot write .*choose another|no regular file|out takes a path"):
        model.export(_kinds(tmp_path)[kind], images)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    with pytest.raises(ArtifactError, match="cannot write"):
        check_place(tmp_path / "mine" / "deeper" / "m.onnx")


def test_a_check_makes_nothing(tmp_path: Path) -> None:
    check_place(tmp_path / "a" / "b" / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("held", "out"), [("m.onnx", "m.onnx"), ("m.xml", "m.xml"), ("m.bin", "m.xml")])
def test_a_file_that_is_not_vitqs_is_replaced_only_by_force(tmp_path: Path, held: str, out: str) -> None:
    (tmp_path / held).write_bytes(b"the user's own")
    with pytest.raises(ExportError, match=rf"{held} was not written by vitq; .*--force"):
        check_place(tmp_path / out)
    check_place(tmp_path / out, force=True)
    for name, content in {**OLD, "m.onnx": b"vitq.target"}.items():
        (tmp_path / name).write_bytes(content)
    check_place(tmp_path / out)


def test_what_a_file_of_vitq_holds_is_its_mark(exported: Callable[..., Any]) -> None:
    for file in ("m.onnx", "m.xml"):
        check_place(exported("vit", "w4a4", target="openvino", export={"target": "openvino"}, file=file)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("survived", range(8))
def test_a_kill_at_any_step_leaves_whole_files_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    write(tmp_path, OLD)
    child = os.fork()
    if not child:
        steps = [0]

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                if steps[0] == survived:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps[0] += 1
                return step(*arguments, **options)

            return run

        for name in ("write_bytes", "unlink", "replace", "mkdir"):
            setattr(Path, name, counted(getattr(Path, name)))
        try:
            write(tmp_path, NEW)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    seen = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert "m.xml" not in seen or seen in (OLD, NEW)
    assert os.WIFSIGNALED(status) or seen == NEW
    write(tmp_path, NEW)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == NEW, "what was left is removed"


def test_a_failed_write_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match=r"No space left on device; .*free some space"):
        write(tmp_path / "new", NEW)
    assert not list((tmp_path / "new").iterdir())


def test_a_place_that_is_lost_during_the_proof_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        write(tmp_path / "file", NEW)

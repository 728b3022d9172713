"""A process that is killed with SIGKILL, anywhere, and resumed leaves what an uninterrupted one leaves."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from vitq.artifact import sealing
from vitq.artifact.files import write_files
from vitq.model import QuantizedModel, load
from vitq.run import lock
from vitq.run.events import Events
from vitq.run.workspace import open_workspace
from vitq.verbs.finish import finish

RUN = """
import os, signal, sys, torch
from torch import nn
torch.set_num_threads(1)
from vitq import api

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.fc(self.norm(x)).relu()

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.blocks, self.head = nn.Conv2d(3, 8, 4, 4), nn.Sequential(Block(), Block()), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

torch.manual_seed(0)
model, images = Model(), torch.randn(20, 3, 8, 8)
options = {"calibrate.images": 4, "reconstruct.steps": 2, "reconstruct.batch": 4}
api.quantize(model, images, recipe="rtn", progress=False, out=sys.argv[1] + "-first")  # children start warm

def run(out, writes):
    "Run in a process of its own, which kills itself before it has written so many files; return the signal."
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    replace, done = os.replace, []
    def replace_or_die(path, target, **options):
        done.append(path)
        if len(done) == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target, **options)
    os.replace = replace_or_die
    try:
        api.quantize(model, images, recipe="mgrq", bits="w3a3", validation=(images, torch.arange(20) % 10),
                     progress=False, overrides=options, out=out, resume=True)
        os._exit(0)
    finally:
        os._exit(1)

assert run(sys.argv[1], 0) == 0
assert run(sys.argv[2], 3) == signal.SIGKILL
assert run(sys.argv[2], 0) == 0
"""
FILES = (*sealing.FILES, "report.html")


@pytest.mark.skipif(os.name != "posix", reason="fork and SIGKILL are POSIX's")
def test_sigkill_and_resume_give_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", RUN, str(whole), str(killed)], check=True, env=environment)
    for file in FILES:
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing that the run would still do to a file happens."""


class Death:
    """Lets ``alive`` calls of the operating system through, those that change a folder, and kills at the next."""

    CALLS = ("fsync", "ftruncate", "replace", "unlink", "rmdir", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, alive: int) -> None:
        self.left, self.reached = alive, False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.mortal(name, getattr(os, name)))

    def mortal(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left >= 0:
                return call(*args, **kwargs)
            if not self.reached and name == "fsync":  # what was written is only half on the disk
                os.truncate(args[0], os.fstat(args[0]).st_size // 2)
            self.reached = True
            raise Killed

        return wrapper


def work(out: Path, model: QuantizedModel, overwrite: bool = False) -> None:
    """Do what a run does to its folder, without the arithmetic."""
    with open_workspace(out, not overwrite, overwrite) as space, Events(space.log) as events:
        if space.finished:
            return
        checkpoints = space.checkpoints({"seed": 0})
        for piece in ("a", "b"):
            if checkpoints.load(piece) is None:
                checkpoints.save(piece, {"w": torch.ones(3)}, {"loss": 0.5})
        finish(QuantizedModel(model.artifact), out, events, checkpoints.clear)


@pytest.mark.parametrize("again", [False, True], ids=["new", "overwritten"])
def test_a_run_that_is_killed_at_any_write_is_resumed_to_the_same_folder(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    model = load(small_artifact)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a kill loses nothing that the system has; it only takes time
    monkeypatch.setattr(
        "vitq.verbs.finish.write_report", lambda path, *_: write_files(path.parent, {path.name: REPORT})
    )
    work(tmp_path / "whole", model)
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert names == {*FILES, "run.json", "events.jsonl"}
    for alive in count():
        out = tmp_path / str(alive)
        if again:
            shutil.copytree(tmp_path / "whole", out)
        with monkeypatch.context() as patch:
            death = Death(patch, alive)
            with suppress(Killed):
                work(out, model, overwrite=again)
        if not death.reached:
            break
        if (out / "seal.json").exists():
            sealing.require_seal(out, sealing.read_all(out))
        work(out, model)
        assert {file.name for file in out.iterdir()} == names, alive
        for file in FILES:
            assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), (alive, file)
    assert alive > 25


REPORT = b'<!DOCTYPE html><meta name="generator" content="vitq">'


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    hold = "import sys, time, pathlib, vitq.run.lock as k; c = k.locked(pathlib.Path(sys.argv[1])); c.__enter__(); "
    process = subprocess.Popen([sys.executable, "-c", hold + "print(1, flush=True); time.sleep(60)", str(tmp_path)],
                               stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    with (
        pytest.raises(lock.ResumeError, match=f"in use by another run .process {process.pid} on "),
        lock.locked(tmp_path),
    ):
        pass
    process.kill()
    process.wait(timeout=60)
    process.stdout.close()
    assert (tmp_path / lock.LOCK).exists()
    with lock.locked(tmp_path):
        pass
    assert not (tmp_path / lock.LOCK).exists()

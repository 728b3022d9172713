"""A process that is killed with SIGKILL, anywhere, and resumed leaves what an uninterrupted one leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import sys, torch
torch.set_num_threads(1)
from vitq import api
from vitq.demo import digits
model, images, validation = digits()
api.quantize(model, images, recipe="mgrq", bits="w3a3", limit=64, validation=validation, progress=False,
             overrides={"reconstruct.steps": 3}, out=sys.argv[1], resume=True)
"""
FILES = ("config.json", "graph.json", "model.safetensors", "metrics.json", "report.html")


def start(out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", RUN, str(out)])


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_sigkill_and_resume_give_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(timeout=300) == 0
    for pieces in (1, 4):
        process = start(killed)
        until = time.monotonic() + 300
        while len(list((killed / "checkpoints").glob("*.safetensors"))) < pieces:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert start(killed).wait(timeout=300) == 0
    for file in FILES:
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file

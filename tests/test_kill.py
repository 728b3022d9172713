"""A process that is killed with SIGKILL, anywhere, and resumed leaves what an uninterrupted one leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import os, pathlib, signal, sys, torch
torch.set_num_threads(1)
from vitq import api
from vitq.models.torchvision_shim import ensure_torchvision
ensure_torchvision()
import timm

torch.manual_seed(0)
tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
model, images = timm.create_model("vit_tiny_patch16_224", **tiny), torch.randn(20, 3, 32, 32)
options = {"calibrate.images": 4, "reconstruct.steps": 2, "reconstruct.batch": 4}

def run(out, writes):
    "Run in a process of its own, which kills itself before it has written so many files; return the signal."
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    replace, done = pathlib.Path.replace, []
    def replace_or_die(path, target):
        done.append(path)
        if len(done) == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)
    pathlib.Path.replace = replace_or_die
    try:
        api.quantize(model, images, recipe="mgrq", bits="w3a3", validation=(images, torch.arange(20) % 10),
                     progress=False, overrides=options, out=out, resume=True)
        os._exit(0)
    finally:
        os._exit(1)

assert run(sys.argv[1], 0) == 0
for writes in (2, 3, 4):
    assert run(sys.argv[2], writes) == signal.SIGKILL
assert run(sys.argv[2], 0) == 0
"""
FILES = ("config.json", "graph.json", "model.safetensors", "metrics.json", "report.html")


@pytest.mark.skipif(os.name != "posix", reason="fork and SIGKILL are POSIX's")
def test_sigkill_and_resume_give_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", RUN, str(whole), str(killed)], check=True, env=environment)
    for file in FILES:
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file

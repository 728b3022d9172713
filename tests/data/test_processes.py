"""Decoding by worker processes, in a process of its own: a fork takes with it what other tests have loaded."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from vitq.data import load_batches, open_images, processes
from vitq.data.processes import CHUNK, decoders
from vitq.errors import DataError
from vitq.models import Preprocessing

ALONE = "VITQ_TEST_ALONE"
alone = pytest.mark.skipif(ALONE not in os.environ, reason="runs in the process that the first test here starts")


@pytest.mark.skipif(ALONE in os.environ, reason="this is that process")
@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(os, "sched_getaffinity"), reason="needs Linux's fork")
def test_all_of_this_file_in_a_process_of_its_own() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**environment, ALONE: "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "4 passed, 1 skipped" in done.stdout


@alone
def test_processes_give_what_threads_give_with_the_same_warnings(
    flat_folder: Path, preprocessing: Preprocessing, warned: Any
) -> None:
    (flat_folder / "05.png").write_bytes(b"no image")
    Image.new("RGBA", (30, 30), (1, 2, 3, 40)).save(flat_folder / "06.png")
    source = open_images(flat_folder)
    threads = list(load_batches(source, preprocessing, batch_size=7, warn=warned))
    told = list(warned)
    warned.clear()
    forked = list(load_batches(source, preprocessing, batch_size=7, warn=warned, workers=2))
    assert CHUNK < 20 and len(threads) == len(forked) == 3
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(threads, forked, strict=True))
    assert warned == told and warned.names == ["unusable-images", "converted-images"]


@alone
def test_ended_children_are_nobodys_business_behind_the_processes(
    flat_folder: Path, preprocessing: Preprocessing
) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    list(load_batches(open_images(flat_folder), preprocessing, workers=1))
    assert signal.getsignal(signal.SIGCHLD) == before


@alone
def test_a_process_that_dies_is_told(flat_folder: Path, preprocessing: Preprocessing) -> None:
    own = os.getpid()

    def read() -> Any:
        os.kill(os.getpid() if os.getpid() != own else 0, signal.SIGKILL)

    source = open_images(flat_folder)
    broken = replace(source, items=(replace(source.items[0], read=read), *source.items[1:]))
    with pytest.raises(DataError, match=r"a process that decodes images has died or hangs .*workers 0"):
        list(load_batches(broken, preprocessing, workers=1))


@alone
def test_processes_are_for_many_files_alone(flat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = open_images(flat_folder).items
    assert decoders(items, None) == 0 and decoders(items, 3) == 3
    monkeypatch.setattr(processes, "MANY", 10)
    assert decoders(items, None) >= 1 and decoders(items, 0) == 0
    pictures = open_images([Image.new("RGB", (9, 9))] * 20).items
    assert decoders(pictures, None) == decoders(pictures, 2) == 0
    monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
    assert decoders(items, None) == 0 and decoders(items, 3) == 3

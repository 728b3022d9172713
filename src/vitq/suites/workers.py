"""Who measures cells: this process, processes of this machine, or a Ray cluster; all answer alike."""

import json
import os
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vitq.suites.jobs import FAILED, Job, Outcome, Work, said
from vitq.suites.store import LOG, Store

TAIL = 2000
"""Bytes of a dead process's log that are told."""


def measure(job: Job) -> dict[str, Any]:
    """Measure a cell, as ``vitq.suites.work.measure_cell`` does."""
    from vitq.suites.work import measure_cell

    return measure_cell(job)


class Workers(ABC):
    """Takes up to ``slots`` jobs at a time; a context manager that leaves no job at work."""

    slots: int = 1

    @abstractmethod
    def start(self, job: Job) -> None:
        """Begin a job; there is a free slot."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Outcome]:
        """Return the jobs that have ended, after at most so many seconds."""

    def close(self) -> None:  # noqa: B027 - nothing is at work between two calls, where no more is said
        """End what is still at work."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Here(Workers):
    """This process: one job after the other, while ``wait`` waits."""

    def __init__(self, work: Work = measure) -> None:
        self.work = work
        self.jobs: list[Job] = []

    def start(self, job: Job) -> None:
        """Remember the job."""
        self.jobs.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        """Do the jobs."""
        done = []
        while self.jobs:
            job = self.jobs.pop(0)
            try:
                done.append(Outcome(job, self.work(job)))
            except Exception as error:
                done.append(Outcome(job, error=said(error)))
        return done


class Processes(Workers):
    """A fresh process for each job, so that its memory is its own, and its death harms no other."""

    def __init__(self, slots: int, module: str = "vitq.suites.work") -> None:
        self.slots, self.module = slots, module
        self.at_work: dict[Job, tuple[subprocess.Popen[str], IO[str]]] = {}

    def start(self, job: Job) -> None:
        """Start the process; what it prints goes to the log beside its result."""
        folder = Store(Path(job.store)).folder(job.key)
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if job.threads is not None:
            environment["OMP_NUM_THREADS"] = str(job.threads)
        answer = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - a full pipe would stop the process
        with (folder / LOG).open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.PIPE,
                stdout=answer,
                stderr=log,
                text=True,
                env=environment,
            )
        self.at_work[job] = process, answer
        assert process.stdin is not None
        try:
            json.dump(asdict(job), process.stdin)
            process.stdin.close()
        except OSError:  # it has died already, which ``wait`` tells
            pass

    def wait(self, seconds: float) -> list[Outcome]:
        """Look at the processes until one has ended."""
        until = time.monotonic() + seconds
        while True:
            ended = [job for job, (process, _) in self.at_work.items() if process.poll() is not None]
            if ended or time.monotonic() >= until:
                return [_outcome(job, *self.at_work.pop(job)) for job in ended]
            time.sleep(0.05)

    def close(self) -> None:
        """Stop the processes; their runs go on from their checkpoints next time."""
        for process, _ in self.at_work.values():
            process.terminate()
        for process, answer in self.at_work.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            answer.close()
        self.at_work.clear()


def _outcome(job: Job, process: "subprocess.Popen[str]", answer: IO[str]) -> Outcome:
    with answer:
        answer.seek(0)
        text = answer.read()
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    if "row" in found:
        return Outcome(job, found["row"])
    if process.returncode == FAILED:
        return Outcome(job, error=str(found.get("error")))
    how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    log = Store(Path(job.store)).folder(job.key) / LOG
    last = log.read_bytes()[-TAIL:].decode("utf-8", "replace").strip() if log.exists() else ""
    return Outcome(job, error=f"its process ended with {how}" + (f": {last}" if last else ""), died=True)

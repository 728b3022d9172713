"""A Ray cluster as workers: one task a cell, each in a process of its own."""

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vitq.errors import SuiteError, first_line
from vitq.suites.jobs import Job, Outcome, Work, answer
from vitq.suites.workers import Workers, measure

if TYPE_CHECKING:
    from ray import ObjectRef

LOCAL = "local"
"""Address of a cluster that is started for this comparison, on this machine, and ends with it."""


class Ray(Workers):
    """Tasks of a Ray cluster; ``address`` is "local", "auto", or where the cluster's head listens.

    Data, weights and the store are found under the same paths on every machine. Raises SuiteError where Ray is not
    installed or no cluster answers.
    """

    def __init__(self, address: str, slots: int | None, threads: int | None, device: str, work: Work = measure) -> None:
        try:
            import ray
        except ImportError as error:
            raise SuiteError(f"Ray cannot be used ({first_line(error)}): pip install 'vitq[ray]'") from error
        self.ray, self.work = ray, work
        self.jobs: dict[ObjectRef[Any], Job] = {}
        self.own = not ray.is_initialized()
        cpus = threads or 1
        options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False} if address == LOCAL else {}
        if address == LOCAL:
            options["num_cpus"] = (slots or max(1, (os.cpu_count() or 1) // cpus)) * cpus
        variables = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": str(cpus)}
        try:
            if self.own:
                ray.init(
                    address=address,
                    logging_level="ERROR",
                    runtime_env={"env_vars": variables} if address == LOCAL else None,
                    **options,
                )
        except Exception as error:  # of another's code, and of the network
            raise SuiteError(
                f"no Ray cluster at '{address}': {first_line(error)}; start one, or take 'local'"
            ) from error
        total = ray.cluster_resources()
        gpus = 1 if device != "cpu" and total.get("GPU") else 0
        self.slots = slots or max(1, int(total.get("GPU", 0) if gpus else total.get("CPU", 1) // cpus))
        # A worker that dies is told by its error: who retries is the same for all kinds of workers.
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(answer)

    def start(self, job: Job) -> None:
        """Hand the job to the cluster."""
        self.jobs[self.task.remote(self.work, asdict(job))] = job

    def wait(self, seconds: float) -> list[Outcome]:
        """Ask the cluster what has ended."""
        if not self.jobs:
            return []
        done, _ = self.ray.wait(list(self.jobs), num_returns=1, timeout=seconds)
        return [self._outcome(reference, self.jobs.pop(reference)) for reference in done]

    def close(self) -> None:
        """Cancel what is at work, and leave the cluster; a local one ends."""
        for reference in self.jobs:
            self.ray.cancel(reference, force=True)
        self.jobs.clear()
        if self.own:
            self.ray.shutdown()

    def _outcome(self, reference: "ObjectRef[Any]", job: Job) -> Outcome:
        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            return Outcome(job, error=first_line(error))
        except self.ray.exceptions.RayError as error:  # the worker or its machine is gone
            return Outcome(job, error=first_line(error), died=True)
        return Outcome(job, found["row"]) if "row" in found else Outcome(job, error=found["error"])

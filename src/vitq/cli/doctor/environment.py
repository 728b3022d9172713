"""What vitq finds on this machine: packages, devices, a compiler, disk space, each with a remedy."""

import platform
from collections.abc import Iterator
from pathlib import Path

from vitq.cli.doctor.check import Check, Status
from vitq.cli.doctor.machine import accelerators, compiler, disk, processor
from vitq.cli.doctor.packages import OPTIONAL, REQUIRED, optional, required, vitq


def all_checks() -> Iterator[Check]:
    """Yield every check in the order in which people read them; importing torch takes seconds."""
    yield Check("python", Status.OK, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield vitq()
    yield from map(required, REQUIRED)
    yield from map(optional, OPTIONAL)
    yield processor()
    yield from accelerators()
    yield compiler()
    yield disk(Path.cwd())

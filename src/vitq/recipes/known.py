"""Which steps there are: importing the packages that define them fills the registry."""

from collections.abc import Mapping
from importlib import import_module

from vitq.run.step import STEPS, Step

STEP_PACKAGES = ("vitq.calibrate", "vitq.rewrite", "vitq.compensate", "vitq.reconstruct", "vitq.allocation.step")


def known_steps() -> Mapping[str, type[Step]]:
    """Return every registered step by name, those of vitq and those that the caller registered."""
    for package in STEP_PACKAGES:
        import_module(package)
    return STEPS

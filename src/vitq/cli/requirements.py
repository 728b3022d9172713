"""What vitq's own metadata says that it needs."""

import re
from importlib import metadata


def requirement_of(distribution: str) -> str:
    """Return the requirement as vitq's own metadata states it, such as ``torch<2.14,>=2.6``."""
    try:
        lines = metadata.requires("vitq") or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return distribution
    wanted = _normal(distribution)
    return next((line for line in lines if ";" not in line and _normal(line) == wanted), distribution)


def _normal(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0] if name else requirement).lower()


def allows(requirement: str, version: str) -> bool:
    """Tell whether ``requirement`` allows ``version``; without ``packaging`` it does."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)

"""One finding about the environment."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check came out; only ``BROKEN`` keeps vitq from working."""

    OK = "ok"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """One finding: what, how it is, its value, and what to do where it is not ok."""

    name: str
    status: Status
    value: str
    remedy: str = ""

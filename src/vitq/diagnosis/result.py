"""What a diagnosis found; it can be turned into plain data; its page is in report/."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vitq.diagnosis.extremes import Extreme
from vitq.diagnosis.hard import Hard
from vitq.diagnosis.leave_out import LeftOut
from vitq.diagnosis.sanity import Sanity


@dataclass(frozen=True)
class Diagnosis:
    """A model before it is quantized.

    ``sanity`` is None for what is no classifier. ``left_out`` are distances with everything at ``bits``, measured on
    ``site_images`` images; ``roles`` and ``blocks`` say of each site what it is and where. ``hard`` are the costliest.
    """

    model: str
    bits: str
    scope: str
    preprocessing: str
    images: int
    site_images: int
    sanity: Sanity | None
    extremes: tuple[Extreme, ...]
    left_out: LeftOut
    roles: Mapping[str, str]
    blocks: Mapping[str, str]
    hard: tuple[Hard, ...]
    warnings: tuple[tuple[str, str], ...] = ()

    def ranked(self) -> tuple[tuple[str, float], ...]:
        """Return sites and what each costs, as a share of the whole distance, the costliest first."""
        gains = {site: self.left_out.gain(site) for site in self.left_out.sites}
        return tuple(sorted(gains.items(), key=lambda pair: (-pair[1], pair[0])))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "model": self.model,
            "bits": self.bits,
            "scope": self.scope,
            "images": self.images,
            "sanity": None if self.sanity is None else {**asdict(self.sanity), "fits": self.sanity.fits},
            "distance": self.left_out.all,
            "sites": {site: gain for site, gain in self.ranked()},
            "roles": {role: self.left_out.gain(role) for role in self.left_out.roles},
            "outliers": [asdict(extreme) for extreme in self.extremes],
            "hard": {hard.site: list(hard.reasons) for hard in self.hard},
            "warnings": [list(warning) for warning in self.warnings],
        }

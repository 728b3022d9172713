"""The version stands in one place, and the command line can complete itself."""

import tomllib
from pathlib import Path
from typing import Any

from vitq._version import __version__

ROOT = Path(__file__).parents[2]


def test_the_version_is_told_and_the_build_reads_it_where_it_stands(vitq_cli: Any) -> None:
    assert vitq_cli("--version").stdout == f"vitq {__version__}\n"
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in build["project"]["dynamic"] and "version" not in build["project"]
    assert (ROOT / build["tool"]["hatch"]["version"]["path"]).samefile(ROOT / "src" / "vitq" / "_version.py")
    assert __version__ not in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_completion_is_offered(vitq_cli: Any) -> None:
    assert "--install-completion" in vitq_cli("--help").stdout

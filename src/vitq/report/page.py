"""How every page is made: one style, small parts, nothing from outside."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from vitq.artifact.files import exists, read_file, shown
from vitq.errors import ArtifactError

MARK = b'<meta name="generator" content="vitq">'


def page(template: str, package: str = "vitq.report", **values: Any) -> str:
    """Return a page from a template of a package; every value is escaped that is no markup already."""
    environment = Environment(
        loader=FunctionLoader(lambda name: files(package).joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def check_page(path: Path) -> None:
    """Raise ArtifactError where a file is at ``path`` that vitq did not write."""
    if exists(path) and (not path.is_file() or MARK not in read_file(path)):
        raise ArtifactError(f"{shown(path)} was not written by vitq, so it is not overwritten: choose another --out")

"""How every page is made: one style, small parts, nothing from outside."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

MARK = b'<meta name="generator" content="vitq">'


def page(template: str, **values: Any) -> str:
    """Return a page from a template of this folder; every value is escaped that is no markup already."""
    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _text(name: str) -> str:
    return files("vitq.report").joinpath(name).read_text(encoding="utf-8")

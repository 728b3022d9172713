"""Where a verb writes: results to stdout, everything else to stderr."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

from vitq.plain import plain
from vitq.progress import wide_console


def show(renderable: RenderableType) -> None:
    """Print a result for people to stdout."""
    wide_console().print(renderable)


def note(text: str, style: str | None = None) -> None:
    """Print one remark to stderr, unwrapped, so that paths and commands can be copied."""
    Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout."""
    print(json.dumps(plain(data), indent=2, ensure_ascii=False))

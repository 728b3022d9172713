"""Write the tables and figures of every page anew from benchmarks/results.

    python benchmarks/pages.py            writes them
    python benchmarks/pages.py --check    names the pages that differ, and ends with 1

A page holds the command of each table or figure, and what it printed:

    <!-- python benchmarks/deploy.py table --view openvino -->
    | … |
    <!-- end -->
"""

import argparse
import io
import os
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "docs/*.md", "benchmarks/*.md")
PART = re.compile(r"(<!-- python (benchmarks/.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return every page that may hold tables."""
    return [path for place in PLACES for path in sorted(ROOT.glob(place))]


def rendered(text: str, folder: Path, *, check: bool = False) -> str:
    """Return a page of ``folder`` with each table and figure as its command prints it now; ``check`` draws nothing."""

    def anew(found: re.Match[str]) -> str:
        start, command, _, end = found.groups()
        linked = re.sub(
            r"\]\((benchmarks/[^)]+)\)", lambda m: f"]({relative(ROOT / m[1], folder)})", printed(command, check)
        )
        return f"{start}\n{linked.strip()}\n\n{end}"

    return PART.sub(anew, text)


def relative(path: Path, folder: Path) -> str:
    """Return the link from a page of ``folder`` to a file."""
    return Path(os.path.relpath(path, folder)).as_posix()


@cache
def printed(command: str, check: bool) -> str:
    """Return what a script of this folder prints, run in this process with the arguments of ``command``."""
    script, *arguments = shlex.split(command)
    if check and arguments[0] == "figure":
        arguments.append("--check")
    before = sys.argv, list(sys.path)
    sys.argv, sys.path[:0] = [script, *arguments], [str(ROOT / "benchmarks")]
    try:
        with redirect_stdout(io.StringIO()) as out:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
    return out.getvalue()


def main() -> None:
    """Write or check every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, differ = parser.parse_args().check, False
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := rendered(text, path.parent, check=check)) != text:
            differ = True
            print(f"{path.relative_to(ROOT)} {'differs' if check else 'written'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    raise SystemExit(1 if check and differ else 0)


if __name__ == "__main__":
    main()

"""Build wheel and sdist, and try the wheel in fresh environments with the oldest and the newest versions of its bounds.

    python scripts/release.py build            # dist/*.whl, dist/*.tar.gz, and what they hold
    python scripts/release.py oldest newest    # each in an environment of its own: vitq --version, doctor, demo
    python scripts/release.py oldest --extras hf export --python python3.11

Environments need a registry and some gigabytes; ``--no-demo`` leaves the minute of the demonstration out.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
WHEEL = ("vitq/__init__.py", "vitq/py.typed", "vitq/recipes/yaml/mgrq.yaml", "vitq/demo/digits_vit.safetensors",
         "vitq/suites/leaderboard.html.j2")  # fmt: skip
SDIST = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "Makefile", "suites/tables.yaml",
         "tests/conftest.py", "docs/index.md")  # fmt: skip


def requirements(extras: list[str]) -> list[str]:
    """Return what pyproject.toml asks for, with ``extras``, those of extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, left = list(project["dependencies"]), list(extras)
    while left:
        for line in project["optional-dependencies"][left.pop()]:
            inner = re.fullmatch(r"vitq\[(.*)\]", line)
            if inner:
                left += inner[1].split(",")
            else:
                found.append(line)
    return found


def oldest(lines: list[str]) -> list[str]:
    """Return each requirement at its lower bound: ``torch>=2.6,<2.14`` is ``torch==2.6``; ValueError without one."""
    pinned = []
    for line in lines:
        bound = re.match(r"([\w.\[\]-]+?)\s*>=\s*([\w.]+)", line)
        if bound is None:
            raise ValueError(f"'{line}' has no lower bound")
        pinned.append(f"{bound[1].partition('[')[0]}=={bound[2]}")
    return pinned


def build() -> Path:
    """Build both, check what they hold, and return the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        python = fresh(Path(folder), sys.executable)
        run(python, "-m", "pip", "install", "--quiet", "build")
        run(python, "-m", "build", "--outdir", str(DIST), str(ROOT))
    wheel, sdist = newest_of("*.whl"), newest_of("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        lacking(wheel, WHEEL, archive.namelist())
    with tarfile.open(sdist) as archive:
        lacking(sdist, SDIST, [name.partition("/")[2] for name in archive.getnames()])
    print(f"{wheel.name} {wheel.stat().st_size:,} bytes, {sdist.name} {sdist.stat().st_size:,} bytes")
    return wheel


def lacking(path: Path, wanted: tuple[str, ...], names: list[str]) -> None:
    """Raise SystemExit where a built file lacks one of ``wanted``."""
    if missing := sorted(set(wanted) - set(names)):
        raise SystemExit(f"{path.name} lacks {', '.join(missing)}")


def newest_of(pattern: str) -> Path:
    """Return the file in ``dist`` that was built last."""
    return max(DIST.glob(pattern), key=lambda path: path.stat().st_mtime)


def fresh(folder: Path, interpreter: str) -> str:
    """Make an environment of ``interpreter`` and return its Python."""
    if interpreter == sys.executable:
        venv.create(folder / "env", with_pip=True)
    else:
        run(interpreter, "-m", "venv", str(folder / "env"))
    return str(folder / "env" / "bin" / "python")


def try_out(bounds: str, wheel: Path, extras: list[str], interpreter: str, demo: bool) -> None:
    """Install the wheel with the oldest or the newest versions in a fresh environment, and run it."""
    with tempfile.TemporaryDirectory() as folder:
        python = fresh(Path(folder), interpreter)
        pins = oldest(requirements(extras)) if bounds == "oldest" else []
        wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
        run(python, "-m", "pip", "install", "--quiet", wanted, *pins)
        run(python, "-m", "pip", "check")
        for arguments in (["--version"], ["doctor"], *([["demo"]] if demo else [])):
            run(python, "-m", "vitq", *arguments)
    print(f"{bounds}: works")


def run(*command: str) -> None:
    """Run a command outside of the repository; SystemExit where it fails."""
    if subprocess.run(command, cwd=tempfile.gettempdir()).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("build", "oldest", "newest"))
    parser.add_argument("--extras", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--demo", action=argparse.BooleanOptionalAction, default=True)
    chosen = parser.parse_args()
    wheel = build() if "build" in chosen.what or not list(DIST.glob("*.whl")) else newest_of("*.whl")
    for bounds in ("oldest", "newest"):
        if bounds in chosen.what:
            try_out(bounds, wheel, chosen.extras, chosen.python, chosen.demo)


if __name__ == "__main__":
    main()

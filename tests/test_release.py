"""What is released: every requirement has a lower bound, and the extras are all in ``all``."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("release")


def test_every_requirement_of_all_extras_has_a_lower_bound(release: ModuleType) -> None:
    pins = release.oldest(release.requirements(["all"]))
    assert "torch==2.6" in pins and "transformers==4.48" in pins and len(pins) > 20
    assert release.oldest(["ray[default]>=2.40"]) == ["ray==2.40"]
    with pytest.raises(ValueError, match="'numpy' has no lower bound"):
        release.oldest(["numpy"])


def test_all_names_every_extra_but_that_of_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (line,) = extras["all"]
    assert sorted(line.removeprefix("vitq[").removesuffix("]").split(",")) == sorted(
        set(extras) - {"all", "dev", "docs"}
    )


def test_the_workflow_tests_every_python_the_site_and_ray() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert runs["test"] == [".ci/run"] and runs["docs"] == ["make docs"]
    assert any("ray" in line and "tests/suites" in line for line in runs["ray"])


def test_what_a_built_file_must_hold_is_there_to_be_built(release: ModuleType) -> None:
    assert all((ROOT / name).exists() for name in release.SDIST)
    assert all((ROOT / "src" / name).exists() for name in release.WHEEL)
    with pytest.raises(SystemExit, match=r"a\.whl lacks b"):
        release.lacking(Path("a.whl"), ("b",), ["c"])


def test_the_site_has_every_page_of_the_documentation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["strict"] is True

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(inner)

    found = set(pages(site["nav"]))
    assert all((ROOT / page).is_file() for page in found)
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} <= found

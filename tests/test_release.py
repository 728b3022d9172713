"""What is released: every requirement has a lower bound, and the extras are all in ``all``."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_what_a_built_file_must_hold_is_there_to_be_built(release: ModuleType) -> None:
    assert all((ROOT / name).exists() for name in release.SDIST)
    assert all((ROOT / "src" / name).exists() for name in release.WHEEL)
    with pytest.raises(SystemExit, match=r"a\.whl lacks b"):
        release.lacking(Path("a.whl"), ("b",), ["c"])

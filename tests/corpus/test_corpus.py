"""Damaged and hostile files and arguments end in an error that names them, or in a right result; damage is noticed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cases import KINDS, broken, case_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import World

from vitq.arguments import RULES, check
from vitq.artifact import artifact, sealing
from vitq.errors import ArtifactError, RecipeError, ResumeError, VitqError
from vitq.recipes import load_recipe
from vitq.run import checkpoints
from vitq.run.checkpoints import Checkpoints

SEEDS = {kind: range(40) for kind in KINDS} | {"model folder": range(12)}
SMALL = 6_000
"""Bytes of a file whose every byte is changed once; of a larger one, so many are drawn."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("corpus"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in SEEDS.items() for seed in seeds])
def test_a_case_ends_in_a_named_error_or_a_right_result(world: World, kind: str, seed: int) -> None:
    case = case_of(kind, seed, world)
    wrong = broken(case)
    assert wrong is None, f"{case.what}: {wrong}"


def test_there_are_enough_cases() -> None:
    assert sum(map(len, SEEDS.values())) >= 400


def flips(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield positions, and the content with one bit of the byte there changed."""
    draw = Random(0)
    positions = range(len(content)) if len(content) <= SMALL else sorted(draw.sample(range(len(content)), SMALL // 4))
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        yield position, bytes(changed)


@pytest.mark.parametrize("name", sealing.FILES)
def test_a_flipped_bit_anywhere_in_an_artifact_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = world.write("flipped", world.artifact)
    files = dict(world.artifact)
    _serve(monkeypatch, sealing, files)
    artifact.read(folder)
    missed = []
    for position, changed in flips(world.artifact[name]):
        files[name] = changed
        try:
            artifact.read(folder)
            missed.append(position)
        except ArtifactError as error:
            assert name in str(error) and str(folder) in str(error)
    assert not missed


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = dict(world.checkpoints)
    folder = world.write("flipped checkpoints", files)
    _serve(monkeypatch, checkpoints, files)
    monkeypatch.setattr(Checkpoints, "_write", lambda *_: None)
    for name, content in world.checkpoints.items():
        missed = []
        for position, changed in flips(content):
            files[name] = changed
            try:
                Checkpoints(folder, {"seed": 0}, resume=True).load("a")
                missed.append(position)
            except ResumeError as error:
                assert name in str(error)
        assert not missed, name
        files[name] = content
    assert Checkpoints(folder, {"seed": 0}, resume=True).load("a") is not None


def _serve(monkeypatch: pytest.MonkeyPatch, module: Any, files: Mapping[str, bytes]) -> None:
    """Let ``module`` read ``files`` instead of what is on the disk, which would take most of the time."""
    monkeypatch.setattr(module, "read_file", lambda path, *_, **__: files[path.name])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HYPOTHESIS = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@HYPOTHESIS
@given(value=PLAIN)
def test_any_plain_value_of_any_argument_is_read_or_refused(value: Any) -> None:
    for name, rule in RULES.items():
        try:
            check(name, value, rule)
        except VitqError as error:
            assert len(str(error)) < 2_100 and str(error).replace("\n", "").isprintable()


@HYPOTHESIS
@given(key=st.sampled_from(["steps", "batch", "schedule", "terms", "learn", "choose", "lr"]), value=PLAIN)
def test_any_plain_value_of_an_option_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        overrides = check("overrides", {f"reconstruct.{key}": value}, RULES["overrides"])
        json.dumps(load_recipe("oas", overrides=overrides).to_dict(), allow_nan=False)
    except RecipeError as error:
        assert key in str(error) or "recipe" in str(error)
    except VitqError as error:
        assert "overrides" in str(error)


def test_a_message_is_printable_and_short() -> None:
    error = VitqError("\x1b[2J" + "x" * 10_000 + "\ud800")
    assert str(error).isprintable() and len(str(error)) < 2_100
    assert str(VitqError("one\ntwo")) == "one\ntwo"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_seed_gives_the_same_case(tmp_path: Path, world: World, kind: str) -> None:
    assert case_of(kind, 5, world).what == case_of(kind, 5, world).what

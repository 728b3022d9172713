"""YAML of recipes: the numbers of YAML 1.2, no other types, and no text that takes long or much memory."""

from pathlib import Path
from typing import Any

import pytest

from vitq.errors import RecipeError
from vitq.recipes import load_recipe
from vitq.recipes.document import read_yaml, write_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]\n" for above, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0777", 777),
        ("1:30", "1:30"),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1_000.5", "1_000.5"),
        ("+5", 5),
        ("-0", 0),
        ("1e3", 1000.0),
        ("4e-5", 4e-5),
        (".5", 0.5),
        ("2020-01-01", "2020-01-01"),
        ("off", "off"),
        ("true", True),
        ("~", None),
        ("{<<: {a: 1}}", {"<<": {"a": 1}}),
        ("- &x 1\n- *x", [1, 1]),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert read_yaml(text, "here") == value
    assert type(read_yaml(text, "here")) is type(value)


@pytest.mark.parametrize("text", ["010", "1:30", "0x1f", "0o7", "1_000", "true", "~", ".nan", "1e3", "=", "<<", "+5"])
def test_text_that_looks_like_a_number_is_written_as_text(text: str) -> None:
    assert read_yaml(write_yaml({"key": text}), "here") == {"key": text}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!int x", "no whole number"),
        ("!!int 1:30", "no whole number"),
        ("9" * 5000, "no whole number"),
        ("!!float x", "does not fit its tag"),
        ("!!bool x", "does not fit its tag"),
        ("!!binary aGk=", "tag"),
        ("!!timestamp 2020-01-01", "tag"),
        ("!!set {a}", "tag"),
        ("!!python/object/apply:os.system [ls]", "tag"),
        ("[" * 3000, "more than 32 levels"),
        ("[" * 3000 + "]" * 3000, "more than 32 levels"),
        ("{a: " * 3000, "more than 32 levels"),
        ("- " * 3000 + "a", "more than 32 levels"),
        ("&a [*a]", "aliases"),
        ("&a {b: *a}", "aliases"),
        (BOMB, "aliases"),
        ("{a: 1, a: 2}", "'a' is written twice"),
        ("{1: a, '1': b}", "'1' is written twice"),
        ("a: {b: {c: 1, c: 1}}", "'c' is written twice"),
        ("*x", "undefined alias"),
        ("a\n---\nb", "another document"),
        ("\0", "not allowed"),
    ],
    ids=lambda text: text[:20],
)
def test_what_no_recipe_holds_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        read_yaml(text, "recipe 'x'")
    assert str(caught.value).startswith("recipe 'x'")
    assert len(str(caught.value)) < 300


def test_a_text_of_very_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitq.recipes.document.MOST", 100)
    assert len(read_yaml("[" + "1," * 90 + "]", "here")) == 90
    with pytest.raises(RecipeError, match="more than 100 values"):
        read_yaml("[" + "1," * 110 + "]", "here")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("- [a]", "step 1: a step is one name"),
        ("- insert: 3", "options of step 'insert'"),
        ("- {insert: {}, calibrate: {}}", "step 1: a step is one name"),
        ("- 7", "step 1: a step is one name"),
        ("- nosuchstep", "unknown step 'nosuchstep'"),
    ],
)
def test_an_error_in_a_step_names_the_recipe(tmp_path: Path, steps: str, words: str) -> None:
    (tmp_path / "own.yaml").write_text(f"name: own\nsummary: a\nsource: b\nsteps:\n{steps}\n")
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(tmp_path / "own.yaml")
    assert "recipe '" in str(caught.value) and "own" in str(caught.value)


def test_a_file_that_no_recipe_is_is_refused_without_reading_it(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    for name in ("pipe", "folder", "large", "latin", "absent"):
        with pytest.raises(RecipeError, match=f"{name}.yaml"):
            load_recipe(tmp_path / f"{name}.yaml")

"""Golden scores: what cells of a suite scored once, how far they may be from it now, and the file that says both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from vitq.artifact.files import exists, read_file, reason, shown, write_files
from vitq.errors import SuiteError, VitqError
from vitq.recipes.document import read_yaml, write_yaml
from vitq.suites.board import Board
from vitq.suites.cells import Cell
from vitq.suites.suite import Strict, Suite, Width


class GoldenCell(Strict):
    """One cell, its score, and how far it may be from that, in the score's own unit."""

    model: str
    recipe: str
    bits: Width
    budget: str = Field("quick", min_length=0)
    seed: int = 0
    score: float
    tolerance: Annotated[float, Field(ge=0)]

    @property
    def place(self) -> tuple[str, str, str, str, int]:
        """Where it stands in the suite."""
        return (self.model, self.recipe, self.bits, self.budget, self.seed)


class Golden(Strict):
    """A file of golden scores."""

    suite: str
    cells: Annotated[tuple[GoldenCell, ...], Field(strict=False)]


@dataclass(frozen=True)
class Drift:
    """A golden cell beside what it scores now, None where it was not measured."""

    golden: GoldenCell
    now: float | None

    @property
    def within(self) -> bool:
        """Whether it is as near as it has to be."""
        return self.now is not None and abs(self.now - self.golden.score) <= self.golden.tolerance

    def __str__(self) -> str:
        """Say how far it is from its golden score."""
        own = self.golden
        where = f"{own.model}, {own.recipe} {own.bits}, {own.budget}, seed {own.seed}".replace(", ,", ",")
        now = "not measured" if self.now is None else f"{self.now:.2f}"
        return f"{where}: {now}, golden {own.score:.2f} ± {own.tolerance:g}"


def golden_path(suite: Suite, folder: Path) -> Path:
    """Return the suite's golden file; SuiteError where it names none."""
    if suite.golden is None:
        raise SuiteError(f"suite '{suite.name}' names no golden file; add the line golden: FILE.yaml")
    return folder / suite.golden


def read_golden(path: Path) -> Golden:
    """Read golden scores; SuiteError says what is wrong with the file."""
    try:
        return Golden.model_validate(
            read_yaml(read_file(path, error=SuiteError).decode("utf-8", "replace"), shown(path))
        )
    except ValidationError as error:
        raise SuiteError(f"{shown(path)}: {reason(error)}") from None
    except VitqError as error:
        raise SuiteError(str(error)) from None


def drifts(board: Board, golden: Golden) -> tuple[Drift, ...]:
    """Return every golden cell with its score now."""
    now = {cell.place_key: row.get("score") for cell, row in board.cells}
    return tuple(Drift(own, now.get(own.place)) for own in golden.cells)


def renew(board: Board, path: Path) -> Path:
    """Write the scores of a board as golden ones, with the tolerances that the file had; cells not measured stay."""
    known = {own.place: own for own in read_golden(path).cells} if exists(path) else {}
    own = {
        cell.place_key: _entry(cell, row, known.get(cell.place_key), board.suite.tolerance)
        for cell, row in board.cells
        if row.get("score") is not None
    }
    kept = {place: golden.model_dump() for place, golden in known.items()}
    content: Mapping[str, Any] = {"suite": board.suite.name, "cells": list((kept | own).values())}
    write_files(path.parent, {path.name: write_yaml(content).encode()}, SuiteError)
    return path


def _entry(cell: Cell, row: Mapping[str, Any], known: GoldenCell | None, tolerance: float) -> dict[str, Any]:
    allowed = tolerance if known is None else known.tolerance
    return {**cell.place, "score": round(float(row["score"]), 4), "tolerance": allowed}


def drifted(found: Sequence[Drift]) -> tuple[Drift, ...]:
    """Return those that are too far from their golden scores, or were not measured."""
    return tuple(drift for drift in found if not drift.within)

"""The leaderboard: Markdown for reading, CSV for computing, one HTML page with Pareto plots."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitq._version import __version__
from vitq.artifact.files import exists, read_file, shown, write_files
from vitq.errors import SuiteError
from vitq.report.page import MARK, page
from vitq.report.units import duration, label, size
from vitq.statistics import Spread
from vitq.suites.board import Board, Group
from vitq.suites.golden import Drift
from vitq.suites.held_out import MEASURES
from vitq.suites.plots import pareto_plots
from vitq.suites.suite import FLOATING

NONE = "–"
TEMPLATE = "leaderboard.html.j2"
NAMES = ("leaderboard.md", "leaderboard.csv", "leaderboard.html")
MARKS = (b"<!-- vitq compare", b"suite,model,recipe,bits", MARK)
COLUMNS = (
    "suite", "model", "recipe", "bits", "budget", "seed", "metric", "score", "top1", "top5", "images", "agreement",
    "held_out_images", "distance", "feature_error", "mean_segment_error", "size_bytes", "fp_size_bytes", "seconds",
    "peak_memory_bytes", "device", "threads", "machine", "date", "warnings", "key",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Heads and rows of text; ``best`` are the places (row, column) of the best score of each column."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


def write_leaderboard(folder: Path, board: Board, drifts: Sequence[Drift] = ()) -> tuple[Path, ...]:
    """Write the three files and return their paths; SuiteError where that fails or files of another are there."""
    for name, mark in zip(NAMES, MARKS, strict=True):
        path = folder / name
        if exists(path) and mark not in read_file(path, error=SuiteError):
            raise SuiteError(f"{shown(path)} was not written by vitq, so it is not overwritten: choose another --out")
    texts = (markdown(board, drifts), cells_csv(board), html(board, drifts))
    write_files(folder, {name: text.encode() for name, text in zip(NAMES, texts, strict=True)}, SuiteError)
    return tuple(folder / name for name in NAMES)


def tables(board: Board, drifts: Sequence[Drift] = ()) -> tuple[Table, ...]:
    """Return all tables: one of scores for each width, the claims, held-out images, costs, golden scores."""
    found = [*_scores(board)]
    if board.tested:
        found.append(_claims(board))
    found += [*_held_out(board), _costs(board)]
    if drifts:
        found.append(_golden(drifts))
    return tuple(found)


def _scores(board: Board) -> Iterator[Table]:
    models = tuple(board.suite.models)
    widths = dict.fromkeys(group.bits for group in board.groups if group.recipe != FLOATING)
    metrics = dict.fromkeys(label(group.metric) for group in board.groups)
    for bits in widths or ("",):
        floating = [board.group(model, FLOATING, "w32a32", "") for model in models]
        rows: list[tuple[str, str, list[str]]] = [(FLOATING, "", [_mean(group) for group in floating])]
        own: list[tuple[int, list[Group | None]]] = []
        for recipe, budget in dict.fromkeys((g.recipe, g.budget) for g in board.groups if g.bits == bits):
            groups = [board.group(model, recipe, bits, budget) for model in models]
            own.append((len(rows), groups))
            rows.append((recipe, budget, [_mean(group) for group in groups]))
        for other in board.suite.published:
            if other.bits == bits:
                figures = [other.scores.get(model) for model in models]
                rows.append((f"{other.name} (published)", other.source, [_plain(value) for value in figures]))
        if any(entry.floating is not None for entry in board.suite.models.values()):
            told = [board.suite.models[model].floating for model in models]
            rows.insert(1, (f"{FLOATING} (published)", "", [_plain(value) for value in told]))
            own = [(row + 1, groups) for row, groups in own]
        heads = ("recipe", "budget or source", *models)
        yield Table(
            f"{' and '.join(metrics) or 'scores'} at {bits.upper()}" if bits else "scores",
            heads,
            tuple((name, budget, *cells) for name, budget, cells in rows),
            _best(own, len(models)),
            "Mean ± deviation (seeds)." + (" Published figures are their authors'." if board.suite.published else ""),
        )


def _best(own: Sequence[tuple[int, Sequence[Group | None]]], models: int) -> frozenset[tuple[int, int]]:
    places = set()
    for column in range(models):
        known = [(group.merit, row) for row, groups in own if (group := groups[column]) is not None]
        if len(known) > 1:
            top = max(known)[0]
            places |= {(row, column + 2) for merit, row in known if merit == top}
    return frozenset(places)


def _claims(board: Board) -> Table:
    heads = ("claim", "model", "bits", "budget", "difference", "seeds", "images gained, lost", "p", "")
    rows = tuple(
        (
            f"{t.better} > {t.than}", t.model, t.bits, t.budget, f"{t.difference:+.2f}", str(t.seeds),
            NONE if t.gained is None else f"{t.gained}, {t.lost}", f"{t.p:.2g}", t.verdict,
        )
        for t in board.tested
    )  # fmt: skip
    note = (
        "p: the larger of McNemar's exact test over images (the largest of all seeds) and, from three seeds on, the "
        "paired t-test over seeds; corrected by Holm for all rows."
    )
    return Table("Claims", heads, rows, note=note)


def _held_out(board: Board) -> Iterator[Table]:
    near = [group for group in board.groups if group.distance is not None]
    if near:
        heads = ("model", "recipe", "bits", "budget", "distance", "feature error")
        rows = tuple((g.model, g.recipe, g.bits, g.budget, _error(g.distance), _error(g.feature_error)) for g in near)
        note = "Means over seeds; of calibration images that no recipe was given, against floating point."
        yield Table("On held-out images", heads, rows, note=note)


def _error(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _costs(board: Board) -> Table:
    heads = ("model", "recipe", "bits", "budget", "size", "time")
    rows = tuple((g.model, g.recipe, g.bits, g.budget, size(g.size_bytes), duration(g.seconds)) for g in board.groups)
    return Table("What it costs", heads, rows, note="Means over seeds; time is of the whole run, on the worker it had.")


def _golden(drifts: Sequence[Drift]) -> Table:
    rows = []
    for drift in drifts:
        own, now = drift.golden, NONE if drift.now is None else f"{drift.now:.2f}"
        verdict = "within" if drift.within else "not measured" if drift.now is None else "too far"
        allowed = f"{own.score:.2f} ± {own.tolerance:g}"
        rows.append((own.model, own.recipe, own.bits, own.budget, str(own.seed), allowed, now, verdict))
    return Table("Golden scores", ("model", "recipe", "bits", "budget", "seed", "golden", "now", ""), tuple(rows))


def _mean(group: Group | None) -> str:
    return NONE if group is None else spread_text(group.score)


def spread_text(score: Spread) -> str:
    """Return a mean with its deviation and its number of seeds, where there are several."""
    if score.deviation is None:
        return f"{score.mean:.2f}"
    return f"{score.mean:.2f} ± {score.deviation:.2f} ({score.count})"


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def markdown(board: Board, drifts: Sequence[Drift] = ()) -> str:
    """Return the leaderboard as Markdown."""
    lines = [f"{MARKS[0].decode()} {__version__} -->", f"# {board.suite.name}", ""]
    lines += [board.suite.about.strip(), ""] if board.suite.about else []
    lines += [*_state(board), ""] if board.missing else []
    for table in tables(board, drifts):
        lines += [f"## {table.title}", "", _row(table.heads), "|" + "---|" * len(table.heads)]
        for number, row in enumerate(table.rows):
            bold = (f"**{cell}**" if (number, place) in table.best else cell for place, cell in enumerate(row))
            lines.append(_row(tuple(bold)))
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join(lines)


def _state(board: Board) -> list[str]:
    return [f"{len(board.missing)} of {len(board.missing) + len(board.cells)} cells are not measured."]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def cells_csv(board: Board) -> str:
    """Return one line for each measured cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell, row in board.cells:
        scores: Mapping[str, Any] = row.get("scores") or {}
        own = {name: row.get(name) for name in COLUMNS} | {name: scores.get(name) for name in ("top1", "top5")}
        held_out: Mapping[str, Any] = row.get("held_out") or {}
        own |= {"held_out_images": held_out.get("images"), **{key: held_out.get(key) for key in MEASURES}}
        named = {"suite": board.suite.name, "key": cell.key, "warnings": " ".join(row.get("warnings") or ())}
        writer.writerow({**own, **cell.place, **named})
    return text.getvalue()


def html(board: Board, drifts: Sequence[Drift] = ()) -> str:
    """Return one page that needs nothing but itself."""
    return page(
        TEMPLATE,
        "vitq.suites",
        suite=board.suite,
        version=__version__,
        state=_state(board) if board.missing else [],
        tables=tables(board, drifts),
        plots=[Markup(plot) for plot in pareto_plots(board)],
    )

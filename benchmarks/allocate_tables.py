"""What the tables of allocate.py compare, and how its rows are printed."""

import argparse
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from command import Row, rows
from grid import grid, model_name
from judging import MODELS

UNIFORM, FLOATING = "uniform", "floating point"
SOLVERS: dict[str, dict[str, Any]] = {
    UNIFORM: {},
    "greedy": {"solver": "greedy"},
    "program": {"solver": "program"},
    "program with pairs": {"solver": "program", "pairs": True},
    "evolutionary": {"solver": "evolutionary"},
}


@dataclass(frozen=True)
class Setup:
    """What a table compares: average bits, the candidates of a site, and recipes with options and solvers.

    The first recipe calibrates for the trials; a later one gets the same bits everywhere, greedy and the best alone.
    ``options`` are those of every recipe.
    """

    averages: tuple[str, ...]
    candidates: tuple[int, ...]
    recipes: dict[str, dict[str, Any]]
    solvers: tuple[str, ...] = tuple(SOLVERS)
    options: dict[str, Any] = field(default_factory=dict)


TABLES = {
    "paper": Setup(("4", "3", "2.5"), (2, 3, 4, 5, 6, 8), {"repq": {}, "mgrq": {"reconstruct.steps": 100}, "vitq": {}}),
    "full": Setup(
        ("6", "5"),
        (4, 5, 6, 7, 8),
        {"mptq-vit": {}, "vitq-mixed": {"allocate": "remove"}},  # the bits are given
        (UNIFORM, "greedy", "program"),
        {"insert.scope": "full"},
    ),
}


def table(chosen: argparse.Namespace) -> None:
    """Print the results as Markdown: top-1, held-out KL and megabytes, and the most processor seconds of a row."""
    measured = rows(chosen.results)
    for name, setup in TABLES.items():
        own = [row for row in measured if row["table"] == name]
        trials = [row for row in own if row["solver"] == FLOATING]
        if trials:
            print(f"\n{name}, floating point and trials: {'; '.join(map(_trials, trials))}")
        for recipe in setup.recipes:
            mine = [row for row in own if row["recipe"] == recipe]
            averages = sorted({row["average"] for row in mine}, key=lambda text: (len(text) > 3, text), reverse=True)
            known = {(row["model"], row["average"]) for row in mine}
            columns = [column for column in product(MODELS, averages) if column in known]
            if not columns:
                continue
            heads = [f"{model_name(model)} {average}" for model, average in columns]
            lines = []
            for solver in SOLVERS:
                group = [row for row in mine if row["solver"] == solver]
                if group:
                    parts = [[r for r in group if (r["model"], r["average"]) == column] for column in columns]
                    longest = [max(row[key] for row in group) for key in ("solving", "seconds")]
                    lines.append((solver, *map(_cell, parts), f"{longest[0]:.0f}, {longest[1]:.0f}"))
            print(f"\n{grid((recipe, *heads, 'CPU seconds: bits, quantizing'), lines)}")


def _trials(row: Row) -> str:
    size = f"{row['sites']} sites by {row['candidates']} candidates in {row['solving']:.0f} CPU seconds"
    return f"{model_name(row['model'])} {row['top1']:.1f} %, {size}"


def _cell(group: list[Row]) -> str:
    if not group:
        return "–"
    top1, kl, size = (torch.tensor([float(row[key]) for row in group]) for key in ("top1", "kl", "bytes"))
    spread = f" ± {top1.std():.1f}" if len(group) > 1 else ""
    return f"{top1.mean():.1f}{spread} / {kl.mean():.3f} / {size.mean() / 1e6:.2f}"

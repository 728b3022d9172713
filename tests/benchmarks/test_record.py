"""benchmarks/record.py: every cell is a list of steps, cells of equal time are scaled as they were timed, and run."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from vitq.bits import Bits
from vitq.graph import capture
from vitq.reconstruct import Reconstruct, ReluMlp
from vitq.rewrite import Rotate
from vitq.run.run import Run
from vitq.run.step import Step


@pytest.fixture
def record(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("record")


def test_every_variant_is_a_list_of_steps(record: ModuleType) -> None:
    for table in record.TABLES.values():
        for variant in table.variants.values():
            steps = variant.steps()
            assert table.minutes is None or any(isinstance(step, Reconstruct) for step in steps)
    calibration = record.TABLES["calibration"].variants
    assert not any(isinstance(s, Reconstruct) for variant in calibration.values() for s in variant.steps())
    assert isinstance(calibration["repq, heads rotated"].steps()[0], Rotate)
    assert calibration["adalog + comq"].steps()[-1].step_name == "gptaq"


def test_training_steps_are_scaled_to_the_time_asked_for(
    record: ModuleType, monkeypatch: pytest.MonkeyPatch, small: torch.nn.Module
) -> None:
    def seconds(run: Run, step: Step) -> float:
        if not isinstance(step, Reconstruct):
            return 30.0
        return 5.0 + 2.0 * step.steps if step.steps else 0.0  # what comes once comes before the first step

    monkeypatch.setattr(record, "_seconds", seconds)
    teacher = capture(small, torch.zeros(2, 3, 8, 8))
    run = Run(teacher, teacher.clone(), torch.zeros(2, 3, 8, 8), Bits.parse("w4a4"))
    steps: list[Step] = [Rotate(), ReluMlp(), Reconstruct(steps=30), Reconstruct(steps=10)]
    scaled, factor = record.paced(run, steps, minutes=1)
    assert factor == pytest.approx((60 - 30) / (2 * 40))
    assert [step.steps for step in scaled[2:]] == [11, 4] and scaled[:2] == steps[:2]
    with pytest.raises(ValueError, match="nothing of this recipe is trained"):
        record.paced(run, steps[:2], minutes=1)
    with pytest.raises(ValueError, match=r"takes 0\.5 of 0\.4 minutes"):
        record.paced(run, steps, minutes=0.4)


def test_cells_are_measured_and_one_that_fails_is_counted(
    record: ModuleType, monkeypatch: pytest.MonkeyPatch, small: torch.nn.Module, tmp_path: Path
) -> None:
    import cells

    x_NCHW, loaded = torch.randn(260, 3, 8, 8), SimpleNamespace(module=small.eval(), name="small", task=None)
    monkeypatch.setattr(cells, "images", lambda *_: (loaded, x_NCHW, x_NCHW[:9], torch.zeros(9, dtype=torch.int64)))
    monkeypatch.setattr(cells, "append", lambda path, row: path.open("a").write(json.dumps(row) + "\n"))
    tables = {"t": record.Table(("w4a4",), (0,), {"rtn": record.Variant("rtn")})}
    monkeypatch.setattr(record, "TABLES", tables)
    chosen = argparse.Namespace(threads=torch.get_num_threads(), device="cpu", results=tmp_path / "rows.jsonl")
    own = [dict(zip(cells.KEYS, ("t", variant, "small", "w4a4", 0), strict=True)) for variant in ("rtn", "none")]
    assert cells.work(record.Record, own, chosen) == 1
    bench = record.Record("small", chosen)
    first, same, other = (bench.start(Bits.parse("w4a4"), seed, None).images_NCHW for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(first.sum((1, 2, 3)).sort().values, other.sum((1, 2, 3)).sort().values)
    (row,) = cells.rows(chosen.results)
    assert row.items() >= own[0].items() and row["images"] == 9 and row["steps"] == [] and row["kl"] > 0


def test_a_row_that_no_table_has_is_told(record: ModuleType) -> None:
    chosen = argparse.Namespace(tables=["budgets"], variants=["vitq fats"])
    with pytest.raises(SystemExit, match="vitq fats"):
        record.run(chosen)

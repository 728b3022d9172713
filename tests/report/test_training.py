"""What the log of a run tells of its training."""

import json
from pathlib import Path

from vitq.report.figures import depth_chart, loss_chart
from vitq.report.training import Trained, levels, training_of


def line(name: str, key: str, before: float | str = 0.2, **others: object) -> str:
    facts = {"before": before, "after": 0.1, "rolled_back": False, "losses": [1.0, 0.5, 0.4]}
    return json.dumps({"time": "t", "kind": "segment", "name": name, "key": key, **facts, **others})


def test_the_last_run_counts_and_what_it_read_back(tmp_path: Path) -> None:
    step = json.dumps({"time": "t", "kind": "step", "number": 0, "name": "insert"})
    lines = [
        step,
        line("old", "02-reconstruct-009-unit"),
        step,
        line("a", "02-reconstruct-000-unit", resumed=True),
        line("a", "02-reconstruct-001-block", rolled_back=True),
        line("broken", "02-reconstruct-002-block", before="nan"),
        '{"kind": "segment", "name": "half',
        "[1, 2]",
        '{"kind": "segment", "name": "without errors"}',
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    found = training_of(tmp_path)
    assert [(segment.name, segment.level, segment.rolled_back) for segment in found] == [
        ("a", "unit", False),
        ("a", "block", True),
    ]
    assert found[0].losses == (1.0, 0.5, 0.4) and list(levels(found)) == ["unit", "block"]
    assert training_of(tmp_path / "none") == ()


def test_charts_show_every_sweep_and_nothing_where_nothing_was_trained() -> None:
    assert depth_chart(()) is None and loss_chart(()) is None
    trained = tuple(
        Trained(f"blocks.{i}", level, 0.2 + i, 0.1 + i, i == 1, (1.0, 0.5)) for level in ("unit", "2") for i in range(3)
    )
    depth, losses = str(depth_chart(trained)), str(loss_chart(trained))
    for words in ("segments by unit", "segments by 2 blocks", "before training", "rolled back", "blocks.2"):
        assert words in depth
    assert losses.count("<svg") == 1 and "training step" in losses
    assert loss_chart(tuple(Trained("a", "unit", 1, 1, False, ()) for _ in range(2))) is None

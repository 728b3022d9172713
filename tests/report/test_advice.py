"""What to try next follows from the numbers, and every command is one that vitq has."""

import shlex
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

from vitq.artifact.metrics import RunMetrics
from vitq.bench.saved import Bench, Row
from vitq.cli import app
from vitq.evidence import Evidence, SiteError
from vitq.recipes import parse_assignments
from vitq.report.advice import Facts, advice
from vitq.report.paired import Loss
from vitq.report.training import Trained
from vitq.report.verdict import Kind, Verdict

COMMANDS: Any = typer.main.get_command(app)
SITES = (
    SiteError(site="blocks.0.fc/weight", role="weight", block="blocks.0", bits=4, format="affine", error=0.01),
    SiteError(site="blocks.1.fc/input", role="post_norm", block="blocks.1", bits=4, format="affine", error=0.2),
)


def facts(
    kind: Kind,
    bits: str,
    recipe: str = "repq",
    errors: tuple[float, ...] = (),
    trained: tuple[Trained, ...] = (),
    images: int = 1000,
    bench: Bench | None = None,
    loss: Loss | None = None,
    evidence: Evidence | None = None,
) -> Facts:
    names = [f"blocks.{i}" for i in range(len(errors))]
    config = SimpleNamespace(
        bits=bits, source={"name": "my model"}, recipe={"name": recipe}, calibration={"images": images}
    )
    graph = SimpleNamespace(spans=lambda _: [SimpleNamespace(name=name) for name in names])
    metrics = RunMetrics(images=100, segment_errors=dict(zip(names, errors, strict=True)))
    artifact: Any = SimpleNamespace(config=config, graph=graph, metrics=metrics)
    return Facts(artifact, Verdict(kind, "", (), loss), evidence, trained, bench)


def back(count: int) -> tuple[Trained, ...]:
    return tuple(Trained(f"s{i}", "unit", 1, 1, i < count, tuple(0.9**k for k in range(12))) for i in range(4))


def slow() -> Bench:
    row = Row(name="w8a8", runtime="openvino", size_bytes=1, milliseconds={1: 20.0}, ratios={1: 0.9})
    return Bench(name="w8a8", model="m", threads=1, rounds=2, processor="x", rows=(row,))


CASES = [
    (facts(Kind.REGRESSION, "w4a4"), "--recipe mgrq"),
    (facts(Kind.REGRESSION, "w4a4", evidence=Evidence(sites=SITES)), "--bits w4a8"),
    (facts(Kind.REGRESSION, "w4a8", evidence=Evidence(sites=SITES[:1])), "--bits w8a8"),
    (facts(Kind.REGRESSION, "w8a8"), "--within 1"),
    (facts(Kind.REGRESSION, "w7a8", evidence=Evidence(sites=SITES[:1])), "--within 1"),
    (facts(Kind.REGRESSION, "w4a4", errors=(0.01, 0.011, 0.2, 0.21)), "--keep 'blocks.2[./]*=8'"),
    (facts(Kind.REGRESSION, "w4a4", evidence=Evidence(sites=SITES)), "--keep blocks.1.fc/input=8"),
    (facts(Kind.REGRESSION, "w4a4", "mgrq", trained=back(2)), "--set reconstruct.learn.weights=0.005"),
    (facts(Kind.REGRESSION, "w4a4", "mgrq", trained=back(0)), "--set reconstruct.steps=480"),
    (facts(Kind.REGRESSION, "w4a4", "mgrq", trained=back(0), images=64), "--limit 1000"),
    (facts(Kind.ACCEPT, "w8a8"), "vitq bench RUN"),
    (facts(Kind.ACCEPT, "w8a8"), "vitq export RUN"),
    (facts(Kind.ACCEPT, "w8a8"), "--bits w4a8"),
    (facts(Kind.ACCEPT, "w7a8"), "--bits w4a8"),
    (facts(Kind.ACCEPT, "w8a8", bench=slow()), "--target openvino"),
    (facts(Kind.ACCEPT, "w8a8", loss=Loss(0.5, -3, 4, 0.5, 100, "labels")), "vitq evaluate RUN"),
    (facts(Kind.ACCEPT, "w8a8", loss=Loss(0.5, 0, 1, None, 100, "expected")), "vitq evaluate RUN"),
    (facts(Kind.REGRESSION, "w4a4", errors=(0.001, 0.07, 0.2, 0.5)), "--recipe mgrq"),
    (facts(Kind.REGRESSION, "mixed w4.5a4"), ""),
]


@pytest.mark.parametrize(("found", "wanted"), CASES, ids=range(len(CASES)))
def test_each_rule_gives_its_command_and_every_command_is_understood(found: Facts, wanted: str) -> None:
    commands = [one.command for one in advice(found, most=99)]
    assert any(wanted in command for command in commands) or not wanted
    assert len(set(commands)) == len(commands)
    for command in commands:
        program, verb, *arguments = shlex.split(command)
        assert program == "vitq"
        context = COMMANDS.commands[verb].make_context(verb, arguments)
        parse_assignments(context.params.get("override") or [])


def test_a_good_run_is_not_told_to_change_what_is_good() -> None:
    commands = " ".join(one.command for one in advice(facts(Kind.ACCEPT, "w4a4", "mgrq", errors=(0.1, 0.9, 0.9))))
    small = advice(facts(Kind.REGRESSION, "w4a4", errors=(0.001, 0.07, 0.2, 0.3)))
    assert not any("--keep" in one.command for one in small)  # a jump from nearly nothing
    assert "allocate" not in commands and "--recipe" not in commands

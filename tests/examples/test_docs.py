"""The documentation says what the code does: examples run, options are all there, links lead somewhere."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from rich.console import Console

from vitq.allocate import SOLVERS, Problem, Product, Search, SiteCost
from vitq.artifact.metrics import RunMetrics
from vitq.bits import Bits
from vitq.calibrate.assign import search_alone
from vitq.calibrate.candidates import SearchSpec
from vitq.calibrate.insert import Insert
from vitq.calibrate.member import Member
from vitq.calibrate.samples import samples_of
from vitq.calibrate.scope import SCOPES
from vitq.calibrate.searches import SEARCHES
from vitq.cli import app
from vitq.evaluation import measure
from vitq.export.lowerings import LOWERINGS
from vitq.export.targets import OPSET, OPSETS, PROFILES, Cpu, profile_of
from vitq.graph import Graph, Role, Site, capture
from vitq.quantizers import FORMATS, Format, make_quantizer
from vitq.recipes import list_recipes, load_recipe, parse_assignments
from vitq.recipes.known import known_steps
from vitq.recipes.schema import option_keys
from vitq.reconstruct.objective.curvature import CURVATURES, make_estimator
from vitq.reconstruct.objective.fusion import Fusion
from vitq.reconstruct.objective.terms import DISTANCES, TERMS, Batch, LocalTerm
from vitq.reconstruct.slicing.schedule import SCHEDULES, plan
from vitq.reconstruct.step import Reconstruct
from vitq.registry import Registry
from vitq.report.exported import CPUS
from vitq.report.tables import closing_table
from vitq.run.run import Run
from vitq.run.step import STEPS
from vitq.tasks import TASKS, task_for

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
CLOSING = ("report/fewer_bits.py", "report/exported.py", "cli/quantize.py", "cli/export.py")
"""What prints the last lines of the two commands of README.md."""
REGISTRIES: tuple[Registry[Any], ...] = (
    STEPS,
    FORMATS,
    SCHEDULES,
    SEARCHES,
    TERMS,
    CURVATURES,
    DISTANCES,
    LOWERINGS,
    PROFILES,
    SCOPES,
    TASKS,
    SOLVERS,
)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(name: str) -> str:
    """Return the section of CONTRIBUTING.md whose title ends in ``name``."""
    (found,) = [part for part in page("CONTRIBUTING.md").split("\n## ")[1:] if part.splitlines()[0].endswith(name)]
    return found


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Forget afterwards what an example registered."""
    known_steps()
    with ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(registry.kept())
        yield


@pytest.fixture
def example(request: pytest.FixtureRequest, forgetful: None) -> dict[str, Any]:
    """Run the Python of the section that the test names, and return what it defines."""
    namespace: dict[str, Any] = {"__name__": "example"}
    for name in request.param.split(", "):
        (code,) = blocks(section(name), "python")
        exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def graph() -> Graph:
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile((ROOT / "examples" / "own_module.py").read_text(), "own_module.py", "exec"), namespace)
    torch.manual_seed(0)
    return capture(namespace["SmallViT"](dim=24), torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("example", ["number format"], indirect=True)
def test_the_format_quantizes_and_is_calibrated_by_every_search(example: dict[str, Any]) -> None:
    x = torch.rand(64, 32) ** 4
    for search in SEARCHES:
        quantizer = make_quantizer(Format("log_quarter", 6))
        search_alone(Member(Site("a", "a", Role.PROBABILITIES, ()), x, quantizer), search)
        assert torch.equal(quantizer(x), quantizer.decode(quantizer.encode(x)))
        relative = (quantizer(x) - x).square().mean() / x.square().mean()
        assert relative < 4e-3  # steps of 19 %: at most 8.6 % off, 5 % on average


@pytest.mark.parametrize("example", ["search"], indirect=True)
def test_the_search_is_at_least_as_good_as_min_max(example: dict[str, Any]) -> None:
    x = torch.randn(4, 500) ** 3
    target, errors = SearchSpec(Format("affine", 3)), {}
    for search in ("minmax", "halved"):
        grid = SEARCHES[search](target, samples_of(x, None))
        errors[search] = (target.simulate(x, grid.shaped(1)) - x).square().sum()
    assert errors["halved"] < errors["minmax"]


@pytest.mark.parametrize("example", ["rewrite"], indirect=True)
def test_the_rewrite_changes_weights_and_keeps_the_function(example: dict[str, Any], graph: Graph) -> None:
    x = torch.randn(3, 3, 32, 32)
    run = Run(graph, graph.clone(), x, Bits(4, 4))
    example["EvenWeights"](strength=0.5).apply(run)
    weight = graph.sites["blocks.0.qkv/weight"].node
    assert not torch.allclose(run.student.parameter(weight)[1], graph.parameter(weight)[1], atol=1e-3)
    assert torch.allclose(run.student(x), graph(x), atol=1e-5)
    assert load_recipe("rtn").steps  # and the registry still serves recipes


@pytest.mark.parametrize("example", ["schedule"], indirect=True)
def test_the_schedule_names_the_last_half(example: dict[str, Any], graph: Graph) -> None:
    pieces = plan(graph, ["last_half"])
    assert {piece.level for piece in pieces} == {"last_half"}
    assert tuple(piece.span for piece in pieces) == graph.spans("block")[len(graph.spans("block")) // 2 :]


@pytest.mark.parametrize("example", ["objective term"], indirect=True)
def test_the_term_is_zero_for_equal_directions_and_joins_a_fusion(example: dict[str, Any]) -> None:
    target, other = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    term = example["AngleTerm"]()
    assert float(term(Batch(3 * target, target, (), (), None, None))) < 1e-6
    assert float(term(Batch(other, target, (), (), None, None))) > 0.1
    options = Reconstruct.model_validate({"objective": {"extra": {"angle": 0.5}}})
    objective = Fusion(options.objective.terms(reachable=False))
    assert float(objective(Batch(other, target, (), (), None, None))) == pytest.approx(1.5)
    assert options.model_dump(mode="json")["objective"]["extra"] == {"angle": 0.5}
    assert "extra" not in Reconstruct().model_dump(mode="json")["objective"]


@pytest.mark.parametrize("example", ["curvature"], indirect=True)
def test_the_curvature_is_known_by_its_name_and_weighs_large_errors_more(example: dict[str, Any]) -> None:
    options = Reconstruct.model_validate({"objective": {"curvature": "error"}})
    target = torch.zeros(2, 3, 4)
    gradients = SimpleNamespace(student_N=torch.arange(4.0) + target, target_N=target)
    curvature = make_estimator(options.objective.curvature)(gradients)  # type: ignore[arg-type]
    assert curvature.diagonal_N.mean() == pytest.approx(1.0)
    assert (curvature.diagonal_N[..., 1:] > curvature.diagonal_N[..., :-1]).all()


@pytest.mark.parametrize("example", ["distance"], indirect=True)
def test_the_distance_is_known_by_its_name_and_compares_layers(example: dict[str, Any]) -> None:
    term = LocalTerm(Reconstruct.model_validate({"objective": {"local_by": "largest"}}).objective.local_by)
    same, other = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert float(term(Batch(same, same, (same,), (same,), None, None))) == 0
    expected = (same - other).abs().amax((0, 1)).mean()
    assert float(term(Batch(same, same, (same,), (other,), None, None))) == pytest.approx(float(expected))


@pytest.mark.parametrize("example", ["number format, lowering"], indirect=True)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "qnn"])
def test_the_lowering_is_the_quantizer_and_is_refused_where_no_kernel_has_it(
    example: dict[str, Any], graph: Graph, target: str
) -> None:
    pytest.importorskip("onnxscript")
    from vitq.export.lower import lower, refusals

    quantizer = make_quantizer(Format("log_quarter", 6))
    quantizer.set_parameters(scale=torch.tensor(0.9))
    student = graph.clone()
    student.insert({"blocks.0/probabilities": quantizer})
    refused = [] if profile_of(target).formats is None else [f"{target} has no kernel for format 'log_quarter'"]
    assert refusals(student, {}, profile_of(target)) == [f"blocks.0/probabilities: {line}" for line in refused]
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(lower(student, {}).module(x), student(x))


@pytest.mark.parametrize("example", ["target"], indirect=True)
def test_the_target_is_known_by_its_name_and_its_options_are_taken(example: dict[str, Any]) -> None:
    profile = profile_of("phone")
    assert profile.name == "phone" and list(PROFILES)[-1] == "phone"
    steps = load_recipe("rtn", overrides=profile.overrides).steps
    assert [step.weight.symmetric for step in steps if isinstance(step, Insert)] == [True]


@pytest.mark.parametrize("example", ["scope"], indirect=True)
def test_the_scope_quantizes_its_roles_alone(example: dict[str, Any], graph: Graph) -> None:
    run = Run(graph, graph.clone(), torch.randn(3, 3, 32, 32), Bits(4, 4))
    Insert(scope="norms").apply(run)
    wanted = {name for name, site in graph.sites.items() if site.readers(SCOPES["norms"])}
    assert set(run.student.quantizers) == wanted and SCOPES["norms"] == example["norms"]()


@pytest.mark.parametrize("example", ["task"], indirect=True)
def test_the_task_is_taken_for_what_it_fits_and_scores(example: dict[str, Any]) -> None:
    task = task_for({"angle": (1,), "features": (4,)})
    assert isinstance(task, example["Angles"]) and task_for({"logits": (1,)}).primary == "logits"
    outputs = {"angle": torch.zeros(8, 1), "features": torch.ones(8, 4)}
    assert float(task.distance(outputs, outputs)) == 0
    assert float(task.distance({"angle": torch.full((8, 1), torch.pi)}, {"angle": torch.zeros(8, 1)})) == pytest.approx(
        2
    )
    batches = [(torch.zeros(8, 3, 4, 4), torch.full((8,), 90))]
    metrics, _ = measure(lambda _: outputs, batches, torch.device("cpu"))
    assert metrics.scores == {"degrees": 90.0} and metrics.top1 is None


@pytest.mark.parametrize("example", ["solver"], indirect=True)
def test_the_solver_is_known_by_its_name_and_keeps_a_limit(example: dict[str, Any]) -> None:
    sites = tuple(SiteCost(name, "weight", True, 10, 10) for name in ("a/weight", "b/weight"))
    ones = np.ones((2, 3))
    problem = Problem(sites, (2, 4, 8), ones, ones, ones > 0, (Product("a", "a/input", "a/weight", 10),))
    choice = SOLVERS["rounds"](problem.within({"average_weights": 6.0}), Search())
    assert choice.tolist() == [1, 2]


def test_every_registry_is_open_by_an_example() -> None:
    """Each kind has a section of CONTRIBUTING.md, whose Python uses its decorator."""
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    made = re.findall(r"^([A-Z]+): Registry\[.*\] = Registry\(", code, re.MULTILINE)
    assert len(made) == len(REGISTRIES), f"a registry that test_docs.py does not know, or the reverse: {made}"
    used = set(re.findall(r"^@(register_\w+)", "".join(blocks(page("CONTRIBUTING.md"), "python")), re.MULTILINE))
    assert used == set(re.findall(r"^def (register_\w+)", code, re.MULTILINE))


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_everything_that_vitq_registers_is_documented(registry: Registry[Any]) -> None:
    known_steps()
    pages = "".join(page(f"docs/{name}.md") for name in ("recipes", "export", "quantize", "allocate"))
    text = " ".join(re.findall(r"`([^`\n]+)`", pages))
    for name in (*registry.built_in(), *registry.reserved):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), f"{registry.kind} '{name}' is not documented"


def test_the_overview_names_every_option_that_a_verb_requires() -> None:
    verbs: Any = typer.main.get_command(app)
    rows = dict(re.findall(r"^\| `vitq (\w+) ([^`]*)`", page("docs/index.md"), re.MULTILINE))
    for verb in ("quantize", "evaluate", "export", "bench", "granularity", "allocate"):
        for parameter in verbs.commands[verb].params:
            if parameter.required and parameter.param_type_name == "option":
                assert parameter.opts[0] in rows[verb], f"{verb} {parameter.opts[0]}"


def test_recipes_in_docstrings_have_options_that_exist(tmp_path: Path) -> None:
    import vitq.recipes.recipe as module

    text = re.sub(r"^ {4}", "", str(module.__doc__).partition("::")[2], flags=re.MULTILINE)
    (tmp_path / "own.yaml").write_text(text.strip().replace("…", "a"), encoding="utf-8")
    assert load_recipe(tmp_path / "own.yaml").name == "brecq"


@pytest.mark.parametrize("text", blocks(section("recipe") + page("docs/recipes.md"), "yaml"))
@pytest.mark.parametrize("budget", ["quick", "full"])
def test_written_recipes_resolve(text: str, budget: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "own.yaml", budget=budget).steps


def test_written_overrides_are_understood() -> None:
    lines = [shlex.split(line, comments=True) for line in page("docs/recipes.md").splitlines() if line[:6] == "--set "]
    assert len(lines) > 5
    for _, assignment in lines:
        assert load_recipe("mgrq", overrides=parse_assignments([assignment])) != load_recipe("mgrq")


def test_settings_to_choose_from_exist() -> None:
    verb: Any = typer.main.get_command(app).commands["quantize"]  # type: ignore[attr-defined]
    options = {option for parameter in verb.params for option in parameter.opts} | {"--cpu", "--validation"}
    said = re.findall(r"`(--[^`]+)`", page("docs/choosing.md"))
    assert len(said) > 10
    for words in map(shlex.split, said):
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert set(given) <= options, words
        settings = parse_assignments([given["--set"]] if "--set" in given else [])
        assert load_recipe(given.get("--recipe", "rtn"), budget=given.get("--budget", "quick"), overrides=settings)
        Bits.parse(given.get("--bits", "w8a8"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_python_is_valid(path: Path) -> None:
    for code in blocks(path.read_text(encoding="utf-8"), "python"):
        compile(code, path.name, "exec")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        there = path if not target else path.parent / target
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}, anchor


def test_every_step_of_vitq_and_every_option_is_documented() -> None:
    for name, step in known_steps().items():
        if step.__module__.startswith("vitq."):
            (text,) = [part for part in page("docs/recipes.md").split("\n### ") if part.startswith(f"`{name}`")]
            for key in option_keys(step):
                assert f"`{key.rpartition('.')[2]}`" in text, f"docs/recipes.md lacks {name}.{key}"


@pytest.mark.parametrize(
    ("verb", "text"), [("quantize", "quantize"), ("evaluate", "quantize"), ("export", "export"), ("bench", "export")]
)
def test_every_option_of_the_command_is_documented(verb: str, text: str) -> None:
    verbs: Any = typer.main.get_command(app)
    for parameter in verbs.commands[verb].params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert f"`{option}" in page(f"docs/{text}.md"), option


def test_the_export_page_states_the_bounds_of_the_proof_and_the_fields_of_its_result() -> None:
    pytest.importorskip("onnxscript")
    from vitq.export.export import ERROR, FLIPPED, Exported
    from vitq.export.verify.outputs import DROP, MARGIN, NUDGE, EndToEnd, complaints

    text = page("docs/export.md")
    for bound in (
        f"at most {100 * FLIPPED:g} % of the codes",
        f"within {ERROR:.0e} of".replace("e-0", "e-"),
        f"Why {ERROR:.0e}".replace("e-0", "e-"),
        f"scaled by 1 + {NUDGE:.0e}".replace("e-0", "e-"),
        f"at most {MARGIN:g} points fewer",
        f"lower by {DROP:g} point",
    ):
        assert bound in text, bound
    assert not complaints(EndToEnd(1000, 97.0, 99.0, 70.0, 72.09)) and "by 2.1 points" in text
    assert complaints(EndToEnd(1000, 97.0, 99.0, 70.0, 72.11))
    fields = {"result": Exported, "end": EndToEnd}
    for owner, name in re.findall(r"\b(result|end)\.(\w+)", "".join(blocks(text, "python"))):
        assert name in {field.name for field in dataclasses.fields(fields[owner])}, name


def test_the_export_page_names_every_target_and_opset() -> None:
    text = page("docs/export.md")
    assert all(f"`{target}`" in text for target in PROFILES)
    assert f"takes {OPSETS[0]} to {OPSETS[-1]}: {OPSET}, the default" in text


def test_the_first_page_shows_what_its_commands_print() -> None:
    run, export = blocks(page("README.md"), "text")
    metrics = RunMetrics(
        agreement=96.875,
        images=256,
        mean_segment_error=0.0104,
        size_bytes=5_560_000,
        fp_size_bytes=22_869_664,
        seconds=59.2,
        peak_memory_bytes=1_750_000_000,
    )
    artifact: Any = SimpleNamespace(metrics=metrics, config=SimpleNamespace(bits="w7a8"))
    console = Console(width=120, record=True, file=StringIO())
    console.print(closing_table(artifact))
    printed = "\n".join(line.rstrip() for line in console.export_text().splitlines()).strip("\n")
    assert printed in run
    code = "".join((ROOT / "src" / "vitq" / path).read_text() for path in CLOSING)
    for words in ("fewer bits: --bits w", "models measured it loses", "saved in ", "; use it: "):
        assert words in run and words in code
    for words in (" products in integer kernels (", "agrees with the simulation on", CPUS[Cpu.ANY], "saved "):
        assert words in export and words in code


def test_every_recipe_is_in_the_overview_and_explained() -> None:
    for recipe in list_recipes():
        assert f"| `{recipe.name}` |" in page("docs/recipes.md")
        assert f"## `{recipe.name}`" in page("docs/methods.md")


def test_every_role_format_and_scope_is_explained() -> None:
    text = page("docs/concepts.md")
    for word in (*Role, *(name for name, q in FORMATS.items() if q.__module__.startswith("vitq.")), *SCOPES):
        assert f"`{word}`" in text, word

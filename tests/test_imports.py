"""Imports point one way: no circle of modules, and nobody knows what stands above it; the source is read, not run."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

HEAVY = {"timm", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "nncf", "sklearn"}
"""Sources of models, and runtimes: imported when used."""

KNOWS = {
    "errors": set(),
    "registry": {"errors"},
    "bits": {"errors"},
    "devices": {"errors"},
    "modes": set(),
    "graph": {"errors", "registry"},
    "quantizers": {"errors", "registry"},
    "activations": {"graph"},
    "tasks": {"errors", "graph", "registry"},
    "models": {"errors", "graph", "tasks"},
    "data": {"errors", "models"},
    "integer": {"errors", "graph", "quantizers"},
    "artifact": {"_version", "bits", "errors", "graph", "models", "quantizers"},
}
"""The packages below the steps, and all that each may import; who is not here is held by ``FORBIDDEN`` alone."""

STEPS = {"calibrate", "rewrite", "compensate", "reconstruct", "allocate"}
TOP = {"__init__", "__main__", "api", "cli", "suites", "verbs"}
ABOVE = {"models", "data", "artifact", "evaluation", "export", "bench", "integer", "report", "recipes", "model"}
FORBIDDEN = {
    **{step: (STEPS - {step}) | ABOVE for step in sorted(STEPS)},
    "run": STEPS | {"model", "evaluation", "report", "recipes", "export", "bench"},
    "evaluation": {"model", "report", "recipes", "export", "bench"},
    "recipes": {"model", "evaluation", "bench"},
    "export": STEPS | {"model", "report", "recipes", "bench"},
    "bench": STEPS | {"model", "report", "recipes"},
    "report": {"model", "evaluation"},
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of vitq by its dotted name; a package is its ``__init__``."""
    found = {}
    for path in sorted((SRC / "vitq").rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return found


def imported(node: ast.AST) -> Iterator[str]:
    """Yield what an import statement may mean: of ``from a import b`` both ``a`` and ``a.b``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module is not None, "imports are absolute"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if name in modules() else node.module


def everywhere(tree: ast.Module) -> set[str]:
    """What a module imports anywhere: in functions and for type checkers too."""
    return {name for node in ast.walk(tree) for name in imported(node)}


def at_import(tree: ast.Module) -> set[str]:
    """What a module imports while it is imported itself."""
    left: list[ast.AST] = list(tree.body)
    names: set[str] = set()
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            left += node.orelse
            continue
        names |= set(imported(node))
        left += ast.iter_child_nodes(node)
    return names


def packages_of(name: str) -> Iterator[str]:
    """Yield the packages whose ``__init__`` runs where ``name`` is imported."""
    parts = name.split(".")
    yield from (".".join(parts[:length]) for length in range(2, len(parts)))


@cache
def graph_of_imports() -> dict[str, set[str]]:
    """Return who imports whom in vitq; the ``__init__`` of another package is imported with each of its modules."""
    found = {}
    for name, tree in modules().items():
        names = {other for other in everywhere(tree) if other in modules()}
        parents = {package for other in names for package in packages_of(other)}
        found[name] = (names | {p for p in parents if not name.startswith(f"{p}.")}) - {name}
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Return one circle of ``edges`` as a path that ends where it begins; nothing where there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := search(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := search(name, []))), [])


def room(name: str) -> str:
    """Return the package or the file right under vitq that a module is in."""
    return name.split(".")[1] if "." in name else "__init__"


@cache
def rooms() -> dict[str, set[str]]:
    """Return which rooms each room imports from."""
    found: dict[str, set[str]] = {}
    for name, others in graph_of_imports().items():
        found.setdefault(room(name), set()).update(room(other) for other in others)
    return {name: others - {name} for name, others in found.items()}


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_module_imports_itself_through_others() -> None:
    assert circle(graph_of_imports()) == []


@pytest.mark.parametrize("name", KNOWS)
def test_what_lies_below_the_steps_knows_only_what_lies_below_itself(name: str) -> None:
    assert rooms()[name] <= KNOWS[name]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_stands_above_is_not_known(name: str) -> None:
    assert not rooms().get(name, set()) & FORBIDDEN[name]


def test_the_verbs_are_known_to_the_command_line_alone() -> None:
    for name, others in rooms().items():
        if name not in TOP:
            assert not others & TOP, name
    assert "cli" not in rooms()["api"]


@pytest.mark.parametrize("name", ["api", "cli.app", "model", "run.inputs", "demo"])
def test_neither_timm_nor_a_runtime_is_imported_before_it_is_used(name: str) -> None:
    left, reached = [f"vitq.{name}"], set()
    while left:
        here = left.pop()
        if here in reached:
            continue
        reached.add(here)
        names = at_import(modules()[here])
        assert not {other.split(".")[0] for other in names} & HEAVY, here
        left += [other for other in names if other in modules()]
        left += [package for other in names for package in packages_of(other) if package in modules()]
    assert len(reached) > 5

"""YAML as recipes need it: 4e-5 is a number, off and no are words, the same key twice is an error."""

import re
from collections import Counter
from collections.abc import Hashable
from typing import Any

import yaml

from vitq.errors import RecipeError
from vitq.run.limits import DEEPEST, MOST

FLOAT = re.compile(
    r"""[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
       |[-+]?[0-9]+[eE][-+]?[0-9]+
       |[-+]?\.(?:inf|Inf|INF)
       |\.(?:nan|NaN|NAN)""",
    re.VERBOSE,
)
INTEGER = re.compile("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
LONGEST_INTEGER = 40
BOOL = re.compile("true|True|TRUE|false|False|FALSE")


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the numbers and booleans of YAML 1.2 and no other types, nested and repeated in bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            problem = f"more than {DEEPEST} levels inside each other"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_document(self) -> yaml.Node | None:
        node: yaml.Node | None = super().compose_document()
        _check_size(node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = next((key for key, count in keys.items() if count > 1), None)
        if twice is not None:
            problem = f"key '{twice}' is written twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if not INTEGER.fullmatch(text) or len(text) > LONGEST_INTEGER:
            problem = f"'{text[:LONGEST_INTEGER]}' is no whole number, or a very long one"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _check_size(root: yaml.Node | None) -> None:
    """Refuse a document that is large once every alias is written out, or that contains itself."""
    left, seen = [] if root is None else [(root, 0)], 0
    while left:
        node, depth = left.pop()
        seen += 1
        if seen > MOST or depth > DEEPEST:
            problem = f"more than {MOST:,} values or {DEEPEST} levels, counting what aliases repeat"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            left += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += [(part, depth + 1) for part in node.value]


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what the loader would otherwise not read back as the same text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


TAG = "tag:yaml.org,2002:"
NUMBER = list("-+0123456789.")

for _class in (_Loader, _Dumper):
    kept = {
        first: [r for r in rules if r[0] == f"{TAG}null"] for first, rules in _class.yaml_implicit_resolvers.items()
    }
    _class.yaml_implicit_resolvers = kept
    _class.add_implicit_resolver(f"{TAG}bool", re.compile(rf"^(?:{BOOL.pattern})$"), list("tTfF"))
    _class.add_implicit_resolver(f"{TAG}int", re.compile(rf"^(?:{INTEGER.pattern})$"), NUMBER)
    _class.add_implicit_resolver(f"{TAG}float", re.compile(rf"^(?:{FLOAT.pattern})$", re.VERBOSE), NUMBER)
_known = {None, *(f"{TAG}{name}" for name in ("null", "bool", "float", "str", "seq", "map"))}
_Loader.yaml_constructors = {tag: make for tag, make in _Loader.yaml_constructors.items() if tag in _known}
_Loader.add_constructor(f"{TAG}int", _Loader.construct_whole)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; raise RecipeError with ``where`` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise RecipeError(f"{where}{line}: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, KeyError, RecursionError):  # of PyYAML's own constructors
        raise RecipeError(f"{where}: a value does not fit its tag, such as !!float x; write it without one") from None


def write_yaml(data: Any) -> str:
    """Write plain data as YAML that ``read_yaml`` reads back equal, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)

"""YAML as recipes need it: 4e-5 is a number, off and no are words, the same key twice is an error."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from vitq.errors import RecipeError

FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
       |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
       |[-+]?\.(?:inf|Inf|INF)
       |\.(?:nan|NaN|NAN)""",
    re.VERBOSE,
)
BOOL = re.compile("true|True|TRUE|false|False|FALSE")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 of PyYAML with the booleans and floats of YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            problem = f"key '{twice}' is written twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what the loader would otherwise not read back as the same text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _without(resolvers: dict[str, Any], *tags: str) -> dict[str, Any]:
    return {first: [rule for rule in rules if rule[0] not in tags] for first, rules in resolvers.items()}


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = _without(
        _class.yaml_implicit_resolvers,
        "tag:yaml.org,2002:bool",
        "tag:yaml.org,2002:float",
        "tag:yaml.org,2002:timestamp",
    )
    _class.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(rf"^(?:{BOOL.pattern})$"), list("tTfF"))
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(rf"^(?:{FLOAT.pattern})$", re.VERBOSE), list("-+0123456789.")
    )


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; raise RecipeError with ``where`` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise RecipeError(f"{where}{line}: {getattr(error, 'problem', None) or error}") from None


def write_yaml(data: Any) -> str:
    """Write plain data as YAML that ``read_yaml`` reads back equal, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)

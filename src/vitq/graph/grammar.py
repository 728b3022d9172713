"""What a saved graph may be called and how large it may be.

fx writes the names of nodes and the paths of tensors into Python code, which then runs. So a name is a plain identifier
that cannot hide anything which that code itself says, and a path leads to nothing but what was placed there.
"""

import builtins
import keyword
import re
from typing import Any

from torch import fx, nn

from vitq.errors import ArtifactError

QUANTIZERS = "quantizers"
"""The submodule that holds all quantizers."""

MOST_NODES, MOST_ITEMS, DEEPEST, LONGEST = 50_000, 65_536, 8, 1_000
"""Bounds of a saved graph: nodes, items of one list, lists in lists, letters of a name, a path or a word."""

MOST_OUTPUTS = 1_000
"""Bound of the outputs of a saved graph."""

LARGEST_INTEGER = 2**63 - 1
"""The largest that an operator takes; "to the end" in a slice."""

_SAID_BY_FX = {"self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"} | set(dir(builtins))


def require_name(name: Any) -> str:
    """Return the name of a node; ArtifactError unless it is an identifier that hides nothing."""
    fits = isinstance(name, str) and len(name) <= LONGEST and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    if not fits or keyword.iskeyword(name) or name in _SAID_BY_FX:
        raise ArtifactError(f"{_shown(name)} cannot be the name of a node in the saved graph")
    return str(name)


def require_path(path: Any) -> list[str]:
    """Return the parts of the path of a tensor; ArtifactError for what a module already has under such a name."""
    parts = path.split(".") if isinstance(path, str) and len(path) <= LONGEST else []
    if not parts or not all(_plain(part) for part in parts) or hasattr(fx.GraphModule, parts[0]):
        raise ArtifactError(f"{_shown(path)} cannot be the path of a tensor or quantizer in the saved graph")
    return parts


def require_quantizer_path(path: Any) -> str:
    """Return the last part of a quantizer's path, ``quantizers.NAME``; ArtifactError for any other module."""
    parts = require_path(path)
    if len(parts) != 2 or parts[0] != QUANTIZERS:
        raise ArtifactError(f"{_shown(path)} is no quantizer: a saved graph calls only '{QUANTIZERS}.NAME'")
    return parts[1]


def require_stack(paths: Any) -> list[str]:
    """Return the module paths that a node's stack names; ArtifactError for what is no list of short texts."""
    fits = isinstance(paths, list) and len(paths) <= MOST_ITEMS
    if not fits or not all(isinstance(p, str) and len(p) <= LONGEST and _dotted(p) for p in paths):
        raise ArtifactError(f"{_shown(paths)} is no stack of modules of the saved graph")
    return list(paths)


def require_same_globals(module: fx.GraphModule) -> None:
    """Raise ArtifactError where a node has a name that the code of ``module`` reads as a global."""
    said = set(module.graph.python_code("self").globals)
    hidden = sorted(said & {node.name for node in module.graph.nodes if node.op != "output"})
    if hidden:
        raise ArtifactError(f"'{hidden[0]}' cannot be the name of a node in the saved graph: its code says it")


def _plain(part: str) -> bool:
    """Tell whether ``part`` can be a registered tensor's or module's name and nothing else."""
    written = part.isprintable() and not re.search(r"[\s'\"\\{}]", part)
    return bool(part) and written and not part.startswith("__") and not hasattr(nn.Module, part)


def _dotted(path: str) -> bool:
    """Tell whether ``path`` is empty, which is the model itself, or has something printable between its dots."""
    return not path or (path.isprintable() and all(path.split(".")))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""The modules that a captured graph came from, as ``nn_module_stack`` remembers them."""

from torch import fx


def module_paths(node: fx.Node) -> list[str]:
    """Return the paths of the modules around ``node``, outermost first."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def list_items(graph: fx.Graph) -> set[str]:
    """Return the paths of list items: numbers (``blocks.3``) or like-named siblings (``layer_0``, …)."""
    children: dict[str, set[str]] = {}
    for path in {path for node in graph.nodes for path in module_paths(node) if path}:
        children.setdefault(path.rpartition(".")[0], set()).add(path.rpartition(".")[2])
    items: set[str] = set()
    for parent, names in children.items():
        alike = len({name.rstrip("0123456789") for name in names}) == 1
        items |= {f"{parent}.{n}" for n in names if n.isdigit() or (alike and n[-1].isdigit())}
    return items

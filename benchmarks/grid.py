"""Markdown tables, and the short names of models and machines in them."""

from collections.abc import Iterable, Sequence

NAMES = {
    "deit_tiny_patch16_224": "DeiT-Tiny",
    "vit_tiny_patch16_224": "ViT-Tiny",
    "deit_small_patch16_224": "DeiT-S",
    "swin_tiny_patch4_window7_224": "Swin-T",
    "vit_base_patch16_224": "ViT-B",
}

MODELS = {name: model for model, name in NAMES.items()}
"""Models by their short names."""


def model_name(model: str) -> str:
    """Return a model's short name."""
    return NAMES.get(model, model)


def machine_name(machine: str) -> str:
    """Return a processor's maker, and the best of its integer units."""
    maker = next((name for name in ("Xeon", "EPYC") if name in machine), machine.partition(",")[0])
    units = (("amx_int8", "AMX"), ("vnni", "VNNI"), ("avx2", "AVX2"))
    return f"{maker}, {next((name for flag, name in units if flag in machine), 'no integer unit')}"


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with so many digits, a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"

"""Arguments at the door: one table says, by name, which types and ranges the verbs take."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from vitq.arguments import readers
from vitq.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Rule:
    """What an argument takes, in words, and how it is read; ``read`` raises TypeError or ValueError for all else."""

    takes: str
    read: Callable[[Any], Any]


def checked(**own: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Wrap a verb so that its arguments are checked by ``RULES``, or by a rule of its ``own``, before it starts.

    None passes where it is the default. Raises ArgumentError that names the argument, what it takes and what was given.
    """

    def wrap(verb: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(verb)
        rules = {name: {**RULES, **own}[name] for name in signature.parameters if name in {**RULES, **own}}

        @functools.wraps(verb)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in rules and not (value is None and signature.parameters[name].default is None):
                    bound.arguments[name] = check(name, value, rules[name])
            return verb(*bound.args, **bound.kwargs)

        return wrapper

    return wrap


def check(name: str, value: Any, rule: Rule) -> Any:
    """Return ``value`` as ``rule`` reads it; raise ArgumentError where it does not take it."""
    try:
        return rule.read(value)
    except (TypeError, ValueError, OverflowError) as error:
        why = f" ({error})" if isinstance(error, ValueError) and str(error) else ""
        raise ArgumentError(f"{name} takes {rule.takes}, not {_shown(value)}{why}") from None


def leave_out(what: str, given: Mapping[str, Any]) -> None:
    """Raise ArgumentError for what is given, which would be ignored: ``what`` has its own."""
    if ignored := [name for name, value in given.items() if value is not None]:
        raise ArgumentError(f"{what} has its own {' and '.join(ignored)}: leave them out")


def whole(low: int, high: int) -> Rule:
    """Return the rule of a whole number, Python's or NumPy's."""
    return Rule(f"a whole number from {low:,} to {high:,}", readers.whole(low, high))


MODEL = Rule("a timm name, a Hugging Face id, a folder, or a module (an instance, not its class)", readers.model)
PATH = Rule("a path", readers.path)
TEXT = Rule("text", readers.text)
FLAG = Rule("True or False", readers.flag)
DEVICE = Rule("'auto', 'cpu', 'cuda' or 'cuda:N'", readers.device)
IMAGES = Rule(
    "a folder, an .npz file, a tensor (N, C, H, W), an iterable of images, 'synthetic' or 'noise'", readers.images
)

BITS_OR_TABLE = Rule("bits such as 'w4a4', a bit table or its .yaml file", readers.bits_or_table)

RULES: dict[str, Rule] = {
    "model": MODEL,
    "floating": MODEL,
    "images": IMAGES,
    "validation": IMAGES,
    "recipe": Rule("a recipe's name or a .yaml file", readers.path),
    "bits": Rule("bits such as 'w4a4'", readers.bits),
    "average_bits": Rule("average bits such as 4.5 or 'w3a4.5'", readers.average_bits),
    "fit_mb": Rule("a number of megabytes above 0", readers.positive),
    "size_mb": Rule("a number of megabytes above 0", readers.positive),
    "bit_ops": Rule("a number of bit operations above 0", readers.positive),
    "candidates": Rule("bit-widths, whole numbers from 2 to 8, or 32", readers.candidates),
    "within": Rule("a share of the score in percent above 0", readers.positive),
    "keep": Rule("bits by globs over sites such as {'head/*': 8}", readers.keep),
    "solver": Rule("the name of a solver", readers.text),
    "by": Rule("'output', 'feature' or 'proxy'", readers.text),
    "pairs": FLAG,
    "trials": whole(1, 1_000_000),
    "budget": Rule("'quick', 'full' or another budget of the recipe", readers.text),
    "scope": Rule("'paper', 'deploy' or 'full'", readers.text),
    "target": Rule("the name of a target of 'vitq export'", readers.text),
    "inside": Rule("the path of a part of the model, such as 'vision_model'", readers.text),
    "task": Rule("the name of a task, such as 'dense', or a registered class of tasks", readers.task),
    "weights": Rule("a file, or 'random'", readers.weights),
    "num_classes": whole(1, 1_000_000),
    "preprocessing": Rule("values such as {'crop_pct': 0.9}", readers.preprocessing),
    "overrides": Rule("options such as {'reconstruct.steps': 500}", readers.mapping),
    "limit": whole(1, 1_000_000_000),
    "views": whole(1, 1_000_000),
    "batch_size": whole(1, 1_000_000),
    "seed": whole(0, 2**63 - 1),
    "opset": whole(1, 1_000),
    "runs": Rule("folders of artifacts or quantized models: one, a list, or a mapping from names", readers.runs),
    "batch": Rule(
        "batch sizes, whole numbers from 1 to 65,536, at least one", readers.several(readers.whole(1, 65_536))
    ),
    "threads": whole(1, 1_024),
    "rounds": whole(1, 1_000_000),
    "cpu": Rule("the name of a kind of x86 CPU: 'any' or 'vnni'", readers.text),
    "baselines": FLAG,
    "device": DEVICE,
    "out": PATH,
    "suite": Rule("the .yaml file of a suite", readers.path),
    "data": PATH,
    "store": PATH,
    "only": Rule("a glob or words of cell names", readers.text),
    "jobs": whole(1, 1_024),
    "ray": Rule("the address of a Ray cluster, or 'local'", readers.text),
    "retries": whole(0, 100),
    "measure": FLAG,
    "renew_golden": FLAG,
    "path": Rule("the path of a folder", readers.folder_path),
    "resume": FLAG,
    "overwrite": FLAG,
    "integer": FLAG,
    "workers": whole(0, 256),
    "baseline": Rule("True, or the model that an artifact was made of", readers.baseline),
    "force": FLAG,
    "progress": FLAG,
}
"""By the name that an argument has in every verb."""


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | bool | int | float | bytes) or value is None:
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a number of more than 40 digits"
        return text if len(text) <= 80 else f"{text[:60]}… ({len(text):,} characters)"
    if isinstance(value, os.PathLike):
        return _shown(os.fspath(value))
    return f"a {type(value).__name__}"

"""Arguments at the door: one table says, by name, which types and ranges the verbs take."""

import functools
import inspect
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

from vitq.artifact.artifact import Artifact
from vitq.bits import FLOATING_POINT, AverageBits, Bits, BitTable
from vitq.errors import ArgumentError, DataError, ModelError
from vitq.models import LoadedModel, Preprocessing
from vitq.recipes.bit_table import is_table, read_table
from vitq.run.limits import check_plain
from vitq.tasks import TASKS, Task

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Of a path and of each name in it, in bytes: Linux's limits, the widest there are."""


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


def whole(low: int, high: int) -> Rule:
    """Return the rule of a whole number, Python's or NumPy's."""

    def read(value: Any) -> int:
        if isinstance(value, bool | np.bool_ | torch.Tensor):
            raise TypeError
        number = operator.index(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return Rule(f"a whole number from {low:,} to {high:,}", read)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value.strip():
        raise ValueError
    if "\0" in value or len(value) > LONGEST_PATH:
        raise ValueError("too long, or with a character that no name has")
    return str(value)


def _path(value: Any) -> str | Path:
    text = _text(os.fspath(value))
    raw = os.fsencode(text)
    if len(raw) > LONGEST_PATH or max(map(len, raw.split(os.fsencode(os.sep)))) > LONGEST_NAME:
        raise ValueError("too long for a path")
    return text if isinstance(value, str) else Path(text)


def _folder_path(value: Any) -> Path:
    return Path(_path(value))


def _model(value: Any) -> Any:
    if isinstance(value, nn.Module | LoadedModel):
        return value
    return str(_path(value))


def _images(value: Any) -> Any:
    if value is None or isinstance(value, bytes | bool | int | float):
        raise TypeError
    if isinstance(value, str | os.PathLike):
        path = Path(_path(value))
        if not os.path.exists(path):  # noqa: PTH110 - False, not an error, where a folder above may not be read
            raise DataError(f"'{path}': no such folder or file")
        return path
    return value


def _run(value: Any) -> Path | Artifact:
    artifact = getattr(value, "artifact", value)
    return artifact if isinstance(artifact, Artifact) else Path(_path(value))


def _weights(value: Any) -> str | Path:
    path = _path(value)
    if path != "random" and not os.path.exists(path):  # noqa: PTH110
        raise ModelError(f"weights '{path}': no such file")
    return path


def _bits(value: Any) -> Bits:
    return value if isinstance(value, Bits) else Bits.parse(_text(value))


def _bits_or_table(value: Any) -> Bits | BitTable:
    if isinstance(value, Bits | BitTable):
        return value
    if isinstance(value, os.PathLike) or is_table(_text(value)):
        return read_table(_path(value))
    return Bits.parse(_text(value))


def _average_bits(value: Any) -> AverageBits:
    if isinstance(value, AverageBits):
        return value
    if isinstance(value, str):
        return AverageBits.parse(value)
    number = _positive(value)
    return AverageBits(number, number)


def _positive(value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str | torch.Tensor):
        raise TypeError
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _keep(value: Any) -> dict[str, int]:
    return {_text(pattern): _width(bits) for pattern, bits in _mapping(value).items()}


def _candidates(value: Any) -> tuple[int, ...]:
    return tuple(sorted(set(_several(_width)(value))))


def _width(value: Any) -> int:
    bits: int = whole(2, FLOATING_POINT).read(value)
    if 8 < bits < FLOATING_POINT:
        raise ValueError
    return bits


def _device(value: Any) -> str:
    return str(value) if isinstance(value, torch.device) else _text(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _preprocessing(value: Any) -> Any:
    if not isinstance(value, Preprocessing):
        Preprocessing.check_values(_mapping(value))
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    if not all(isinstance(key, str) for key in value):
        raise ValueError("a key is not text")
    for key, item in value.items():
        try:
            check_plain(item)
        except ValueError as error:
            raise ValueError(f"'{key[:80]}': {error}") from None
    return value


def _several(read: Callable[[Any], R]) -> Callable[[Any], tuple[R, ...]]:
    """Return what reads one value, or a list or tuple of them, each by ``read``."""

    def several(values: Any) -> tuple[R, ...]:
        given = values if isinstance(values, list | tuple) else [values]
        if not given:
            raise ValueError
        return tuple(map(read, given))

    return several


def _runs(value: Any) -> tuple[Path | Artifact, ...] | dict[str, Path | Artifact]:
    if not isinstance(value, Mapping):
        return _several(_run)(value)
    if not value:
        raise ValueError
    return {_text(name): _run(run) for name, run in value.items()}


def _task(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Task):
        name = next((name for name, kind in TASKS.items() if kind is value), None)
        if name is None:
            raise ValueError("register it first: vitq.tasks.register_task")
        return name
    return next(name for name, kind in TASKS.items() if kind is TASKS[_text(value)])


MODEL = Rule("a timm name, a Hugging Face id, a folder, or a module (an instance, not its class)", _model)
PATH = Rule("a path", _path)
TEXT = Rule("text", _text)
FLAG = Rule("True or False", _flag)
DEVICE = Rule("'auto', 'cpu', 'cuda' or 'cuda:N'", _device)
IMAGES = Rule("a folder, an .npz file, a tensor (N, C, H, W) or an iterable of images", _images)

BITS_OR_TABLE = Rule("bits such as 'w4a4', a bit table or its .yaml file", _bits_or_table)

RULES: dict[str, Rule] = {
    "model": MODEL,
    "floating": MODEL,
    "images": IMAGES,
    "validation": IMAGES,
    "recipe": Rule("a recipe's name or a .yaml file", _path),
    "bits": Rule("bits such as 'w4a4'", _bits),
    "average_bits": Rule("average bits such as 4.5 or 'w3a4.5'", _average_bits),
    "size_mb": Rule("a number of megabytes above 0", _positive),
    "bit_ops": Rule("a number of bit operations above 0", _positive),
    "candidates": Rule("bit-widths, whole numbers from 2 to 8, or 32", _candidates),
    "within": Rule("a share of the score in percent above 0", _positive),
    "keep": Rule("bits by globs over sites such as {'head/*': 8}", _keep),
    "solver": Rule("the name of a solver", _text),
    "by": Rule("'output', 'feature' or 'proxy'", _text),
    "pairs": FLAG,
    "trials": whole(1, 1_000_000),
    "budget": Rule("'quick', 'full' or another budget of the recipe", _text),
    "scope": Rule("'paper', 'deploy' or 'full'", _text),
    "target": Rule("the name of a target of 'vitq export'", _text),
    "inside": Rule("the path of a part of the model, such as 'vision_model'", _text),
    "task": Rule("the name of a task, such as 'dense', or a registered class of tasks", _task),
    "weights": Rule("a file, or 'random'", _weights),
    "num_classes": whole(1, 1_000_000),
    "preprocessing": Rule("values such as {'crop_pct': 0.9}", _preprocessing),
    "overrides": Rule("options such as {'reconstruct.steps': 500}", _mapping),
    "limit": whole(1, 1_000_000_000),
    "views": whole(1, 1_000_000),
    "batch_size": whole(1, 1_000_000),
    "seed": whole(0, 2**63 - 1),
    "opset": whole(1, 1_000),
    "runs": Rule("folders of artifacts or quantized models: one, a list, or a mapping from names", _runs),
    "batch": Rule("batch sizes, whole numbers from 1 to 65,536, at least one", _several(whole(1, 65_536).read)),
    "threads": whole(1, 1_024),
    "rounds": whole(1, 1_000_000),
    "cpu": Rule("the name of a kind of x86 CPU: 'any' or 'vnni'", _text),
    "baselines": FLAG,
    "device": DEVICE,
    "out": PATH,
    "path": Rule("the path of a folder", _folder_path),
    "resume": FLAG,
    "overwrite": FLAG,
    "integer": FLAG,
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

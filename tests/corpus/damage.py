"""What can happen to the content of a file: bytes that change, JSON that holds something else."""

import copy
from collections.abc import Callable
from random import Random
from typing import Any

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ",
    "\0", "x", "é", "\ud800", "../../etc/passwd", "/dev/zero", "self", "__class__", "quantizers.__class__", "a.b.c",
    "%s", "{}", "x" * 5_000, "9" * 400, "batch", "torch.ops.aten.add.Tensor", "operator.mul", "os.system",
)  # fmt: skip
CONTAINERS: tuple[Any, ...] = (
    [],
    {},
    [1],
    [[]],
    {"": 1},
    {"a": {"b": []}},
    [None] * 40,
    {"node": "x"},
    {"float": "inf"},
)


def odd_value(rng: Random) -> Any:
    """Return a value that a person would not write there."""
    if rng.random() < 0.1:
        value: Any = 1
        for _ in range(rng.choice((3, 40, 300))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return copy.deepcopy(rng.choice(SCALARS if rng.random() < 0.75 else CONTAINERS))


def damaged_json(rng: Random, value: Any) -> tuple[str, Any]:
    """Return a copy of ``value`` that differs in one to three places, and what was done."""
    value, done = copy.deepcopy(value), []
    for _ in range(rng.randint(1, 3)):
        owner, key = _place(rng, value)
        if owner is None:
            return "all of it", odd_value(rng)
        act = rng.choice(("replace", "replace", "delete", "copy", "rename", "nudge"))
        done.append(f"{act} {str(key)[:40]!r}")
        _change(rng, act, owner, key)
    return ", ".join(done), value


def _change(rng: Random, act: str, owner: Any, key: Any) -> None:
    if act == "delete":
        del owner[key]
    elif act == "copy":
        others = list(owner) if isinstance(owner, dict) else range(len(owner))
        owner[key] = copy.deepcopy(owner[rng.choice(list(others))])
    elif act == "rename" and isinstance(owner, dict):
        owner[str(odd_value(rng))] = owner.pop(key)
    elif act == "nudge" and isinstance(owner[key], int | float):
        owner[key] = type(owner[key])(owner[key] + rng.choice((-1, 1, 1000)))
    else:
        owner[key] = odd_value(rng)


def _place(rng: Random, value: Any) -> tuple[Any, Any]:
    """Return a container inside ``value`` and a key of it, drawn by walking down; (None, None) where there is none."""
    owner, key = None, None
    while isinstance(value, dict | list) and value and (owner is None or rng.random() < 0.8):
        owner, key = value, rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = value[key]
    return owner, key


def damaged_bytes(rng: Random, content: bytes) -> tuple[str, bytes]:
    """Return other bytes than ``content``, and what was done."""
    while True:
        name = rng.choice(list(ACTS))
        changed = ACTS[name](rng, content)
        if changed != content:
            return name, changed


def _flipped(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 5, 100))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _span(rng: Random, content: bytes) -> tuple[int, int]:
    begin = rng.randrange(len(content) + 1)
    return begin, min(len(content), begin + rng.choice((1, 4, 64, len(content))))


def _replaced(make: Callable[[Random, int], bytes]) -> Callable[[Random, bytes], bytes]:
    def replaced(rng: Random, content: bytes) -> bytes:
        begin, end = _span(rng, content)
        return content[:begin] + make(rng, end - begin) + content[end:]

    return replaced


def _inserted(rng: Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 8, 1000))) + content[at:]


ACTS: dict[str, Callable[[Random, bytes], bytes]] = {
    "flip": _flipped,
    "cut": lambda rng, content: content[: rng.randrange(len(content))],
    "zeros": _replaced(lambda _, count: bytes(count)),
    "ones": _replaced(lambda _, count: b"\xff" * count),
    "noise": _replaced(lambda rng, count: rng.randbytes(count)),
    "drop": _replaced(lambda *_: b""),
    "insert": _inserted,
    "twice": lambda _, content: content * 2,
    "other": lambda rng, _: rng.choice((
        b"", b"\0", b"{}", b"[1]", b"null", b"<html>", b"\xff\xfeh\0i\0", b"version https://git-lfs.github.com/spec/v1\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n", b"PK\x03\x04" + bytes(40), b"\x80\x04\x95" + bytes(40), b"[" * 100_000,
    )),
}  # fmt: skip
"""By name: what a disk, a transfer or a hand does to a file that is not empty."""

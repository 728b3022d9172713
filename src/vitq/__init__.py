"""vitq: post-training quantization for vision transformers, to 2 to 8 bits."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitq.api import (
        allocate,
        bench,
        compare,
        diagnose,
        evaluate,
        granularity,
        load,
        put_inside,
        quantize,
        report,
        seal,
    )
    from vitq.model import QuantizedModel

__all__ = [
    "QuantizedModel",
    "allocate",
    "bench",
    "compare",
    "diagnose",
    "evaluate",
    "granularity",
    "load",
    "put_inside",
    "quantize",
    "report",
    "seal",
]


def __getattr__(name: str) -> Any:
    """Import a public verb when it is first used: ``import vitq`` and ``vitq --help`` stay quick."""
    if name not in __all__:
        raise AttributeError(f"module 'vitq' has no attribute '{name}'")
    from vitq import api

    return getattr(api, name)


class _Verbs(ModuleType):
    """This module: a package that has a verb's word for a name (``bench``) does not take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Verbs

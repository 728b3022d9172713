"""vitq: post-training quantization for vision transformers, to 2 to 8 bits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitq.api import evaluate, quantize, seal
    from vitq.model import QuantizedModel, load
    from vitq.slicing import granularity

__all__ = ["QuantizedModel", "evaluate", "granularity", "load", "quantize", "seal"]


def __getattr__(name: str) -> Any:
    """Import a public verb when it is first used: ``import vitq`` and ``vitq --help`` stay quick."""
    if name not in __all__:
        raise AttributeError(f"module 'vitq' has no attribute '{name}'")
    from vitq import api, slicing

    return getattr(slicing if name == "granularity" else api, name)

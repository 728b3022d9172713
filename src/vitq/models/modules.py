"""The plain module behind what people give as a model: wrappers are taken off, what is no model is refused."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.weight_norm import WeightNorm

from vitq.errors import ModelError

_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
}
"""Classes that hold a model and call it, and the name under which they hold it."""

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
"""Where torch's own quantized modules live."""


def plain_copy(module: nn.Module) -> nn.Module:
    """Copy the module inside ``module``'s wrappers; compiled parts inside are taken out of theirs too.

    Raises ModelError for TorchScript, lazy modules that never ran, parameters without values, state that
    is no plain tensor, and what cannot be copied.
    """
    inner = unwrapped(module)
    name = type(inner).__name__
    _check_kind(inner, name)
    try:
        own_copy = copy.deepcopy(inner, _computed_weights(inner))
        _settle_weights(own_copy)
    except Exception as error:  # locks, handles, tensors with a gradient history: each raises its own
        raise ModelError(
            f"the {name} cannot be copied ({error}); give a module that copy.deepcopy copies, in its plain form"
        ) from error
    for path, part in [(path, part) for path, part in own_copy.named_modules() if path]:
        if type(part).__name__ == "OptimizedModule":
            owner, _, leaf = path.rpartition(".")
            setattr(own_copy.get_submodule(owner), leaf, unwrapped(part))
    return own_copy


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what data parallelism, weight averaging and ``torch.compile`` wrap."""
    while (holds := _WRAPPERS.get(_full_name(module))) is not None:
        module = getattr(module, holds)
    return module


def not_a_model(spec: Any) -> ModelError:
    """The error for what is neither a name nor a module, with what to give instead."""
    accepted = "give a timm name, a Hugging Face id, a folder or a torch.nn.Module"
    if isinstance(spec, type):
        made = "an instance of it" if issubclass(spec, nn.Module) else "no model"
        return ModelError(f"model is the class {spec.__name__}, not {made}; {accepted}")
    if isinstance(spec, torch.jit.ScriptFunction):
        return _script("function")
    if type(spec).__name__ == "ExportedProgram":
        return ModelError("model is an ExportedProgram; give the torch.nn.Module that it was exported from")
    if callable(spec):
        return ModelError(f"model is a function ({type(spec).__name__}); {accepted}, whose forward calls it")
    given = "None" if spec is None else f"{spec!r}"[:60] + f" of type {type(spec).__name__}"
    return ModelError(f"model is {given}; {accepted}")


def _computed_weights(module: nn.Module) -> dict[int, Any]:
    """What ``copy.deepcopy`` may put in place of weights that hooks compute, as pruning and weight norm do."""
    held = [tensor for part in module.modules() for tensor in vars(part).values() if isinstance(tensor, torch.Tensor)]
    return {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}


def _settle_weights(module: nn.Module) -> None:
    """Let weights that hooks compute before each run be plain parameters with their values."""
    for part in module.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)
            elif isinstance(hook, WeightNorm):
                nn.utils.remove_weight_norm(part, hook.name)


_EXTRA = "_extra_state"
"""What torch calls state that a module keeps beside its tensors: no part of what it computes from weights."""


def _check_kind(module: nn.Module, name: str) -> None:
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise _script(getattr(part, "original_name", name))
        if type(part).__module__.startswith(_QUANTIZED):
            raise ModelError(
                f"the {name} is quantized by torch already ({type(part).__name__}); give the floating-point model"
            )
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"{name}: '{path}' is lazy and has no shape yet; run the model once on an image first")
        if tensor.is_meta:
            raise ModelError(f"{name}: '{path}' is on the meta device and has no values; load the weights first")
    for path, value in module.state_dict().items():
        if path.rpartition(".")[2] == _EXTRA:
            continue
        kind = None if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        if isinstance(value, torch.Tensor) and (value.is_quantized or value.layout is not torch.strided):
            kind = f"a {'quantized' if value.is_quantized else 'sparse'} tensor"
        if kind is not None:
            raise ModelError(
                f"{name}: '{path}' of its state is {kind}; vitq takes models of plain floating-point tensors: give the "
                "one that it was made from"
            )


def _script(name: str) -> ModelError:
    return ModelError(
        f"the {name} is TorchScript (torch.jit.trace or torch.jit.script), whose operations are fixed; "
        "give the Python module that it was made from, with its weights"
    )


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"

"""The module tree that a pure function is made from: eager, without compiled wrappers.

``torch.compile(net)`` and ``net.compile()`` run the original's code on the original's tensors; the
function takes the module inside. A scripted module is refused.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from l0func.internal.untyped import untyped

_WRAPPED = "_orig_mod"


class ModuleTree(NamedTuple):
    """A module's submodules, itself first, its parameters and its buffers, by their paths."""

    modules: dict[str, nn.Module]
    params: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]


def module_tree(module: nn.Module, /) -> ModuleTree:
    """A module's tree, checked.

    Compiled wrappers are left out, and so is their ``_orig_mod`` in the paths.

    Args:
        module: Any module.

    Raises:
        TypeError: ``module`` is no eager nn.Module, or one below it is scripted.
        ValueError: A parameter is uninitialised, an Embedding has ``max_norm``, or a compiled
            wrapper has hooks of its own.
    """
    _check_kind(module)
    named: Iterable[tuple[str, nn.Module]] = cast("Any", module).named_modules()
    modules = dict(named)
    for path, child in modules.items():
        _check_submodule(path, child)
    params, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for path, tensor in [*params.items(), *buffers.items()]:
        _check_initialised(path, tensor)
    inner = {path: child for path, child in modules.items() if not is_compiled(child)}
    return ModuleTree(eager_paths(inner), eager_paths(params), eager_paths(buffers))


def eager_paths(named: Mapping[str, Any], /) -> dict[str, Any]:
    """The same mapping without the wrapper's part in the paths."""
    if not any(_WRAPPED in path for path in named):
        return dict(named)
    return {_eager_path(path): value for path, value in named.items()}


def _eager_path(path: str) -> str:
    steps = [step for step in path.split(".") if step != _WRAPPED]
    return ".".join(steps)


def is_compiled(module: nn.Module, /) -> bool:
    """Whether a module is the wrapper that ``torch.compile(module)`` returns."""
    # By its name: an import of torch's compiler takes a second.
    return type(module).__name__ == "OptimizedModule" and _WRAPPED in vars(module)["_modules"]


def eager_module(module: nn.Module, /) -> nn.Module:
    """The module inside ``torch.compile``'s wrappers."""
    while is_compiled(module):
        module = cast("Any", module)._modules[_WRAPPED]
    return module


def eager_callable(function: Any, /) -> Any:
    """The function inside ``torch.compile``'s wrappers."""
    while isinstance(function, types.FunctionType):
        inner = getattr(function, "_torchdynamo_orig_callable", None)
        if inner is None:
            break
        function = inner
    return function


def eager_root(module: Any, /) -> Any:
    """The module behind ``torch.compile``, which returns a function for a compiled module."""
    function = eager_callable(module)
    owner = getattr(function, "__self__", None)
    return owner if function is not module and isinstance(owner, nn.Module) else function


def is_graph_module(kind: type, /) -> bool:
    """Whether a class is one that torch.fx generated for a single module."""
    return issubclass(kind, untyped.fx.GraphModule)


def _check_kind(module: Any) -> None:
    is_scripted = isinstance(module, torch.jit.ScriptModule)
    if not isinstance(module, nn.Module) or is_scripted:
        advice = ""
        if is_scripted:
            advice = (
                " TorchScript runs its own copy of the code on its own tensors; give the module "
                "that it was made from, and script the one that l0func.to_module returns."
            )
        elif hasattr(module, "with_buffers"):
            advice = (
                " A pure function has no tensors: give the module that it was made from, or "
                "l0func.to_module(fn, params, buffers)."
            )
        is_class = isinstance(module, type)
        got = f"the class {module.__name__}" if is_class else type(module).__name__
        raise TypeError(
            f"The module, the first argument, is an eager torch.nn.Module; got {got}.{advice}"
        )


def _check_submodule(path: str, child: Any) -> None:
    if isinstance(child, torch.jit.ScriptModule):
        raise scripted(f"Submodule {path!r}", child)
    if is_compiled(child) and _has_hooks(child):
        raise ValueError(
            f"The wrapper from torch.compile at {path!r} has hooks of its own, and a pure "
            "function takes the module inside. Register them on that module, before "
            "torch.compile."
        )
    if getattr(child, "max_norm", None) is not None:
        raise ValueError(
            f"{type(child).__name__} {path!r} has max_norm={child.max_norm}, which rewrites "
            "its weight at every call. Build it with max_norm=None, and renormalise the "
            "parameters between steps if you need to."
        )


def scripted(holder: str, script: Any, /) -> TypeError:
    """The error for TorchScript inside a module.

    Args:
        holder: The words for its place in the module.
        script: The scripted or traced module or function.
    """
    name = getattr(script, "original_name", None)
    of = f" of {name}" if isinstance(name, str) else ""
    return TypeError(
        f"{holder} is TorchScript ({type(script).__name__}{of}). It runs its own copy of the code "
        "on its own tensors, whatever params a pure function is given. Put the eager module or "
        "function in its place, and script the module that l0func.to_module returns."
    )


def _has_hooks(module: nn.Module) -> bool:
    tables = [vars(module)[name] for name in ("_forward_hooks", "_forward_pre_hooks")]
    tables += [vars(module)[name] for name in ("_backward_hooks", "_backward_pre_hooks")]
    return any(tables)


def _check_initialised(path: str, tensor: Tensor) -> None:
    if untyped.nn.parameter.is_lazy(tensor):
        raise ValueError(
            f"{path!r} is uninitialised; run the lazy module once on an example before "
            "make_functional."
        )

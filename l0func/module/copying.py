"""Deep copies of modules that hold results of a computation, which torch does not copy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from torch import Tensor, nn

from l0func.pure.eager import is_compiled
from l0func.pure.functional import make_functional

_WITHOUT_STATE = (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float)


def copied_module(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, results of a computation included; these are detached.

    The old weight norm, the old spectral norm and pruning keep such a result as the weight, and a
    module may keep its auxiliary loss. Where something else has no copy (a lock, an open file, a
    generator), the new module has its own tensors, and shares the other attributes.

    Args:
        module: The module.
        memo: The memo of the :func:`copy.deepcopy` around this one.
    """
    memo = {} if memo is None else memo
    if any(map(is_compiled, module.modules())):
        # The copy runs eagerly, and its paths are those of the modules that were compiled.
        fn, params, buffers = make_functional(module)
        return fn.module(params, buffers)
    # A copy that fails leaves halves of modules behind.
    trial = {**memo, **detached_results(module)}
    try:
        new = copy.deepcopy(module, trial)
    except Exception:
        # An attribute of unknown code may raise anything when it is copied.
        fn, params, buffers = make_functional(module)
        new = fn.module(params, buffers)
        trial = {id(module): new}
    # The objects that a memo knows by identity; it keeps them alive under its own.
    known = trial.pop(id(trial), [])
    memo.update(trial)
    memo.setdefault(id(memo), []).extend(known)
    return new


def detached_results(value: Any) -> dict[int, Any]:
    """A memo for :func:`copy.deepcopy`: detached copies for all results of a computation."""
    memo: dict[int, Any] = {}
    for tensor in _held_tensors(value):
        if tensor.grad_fn is not None and id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
    return memo


def _held_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors that an object holds, through containers and attributes."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, Tensor):
            yield here
        else:
            waiting.extend(_held(here))


def _held(value: Any) -> Iterable[Any]:
    if value is None or isinstance(value, _WITHOUT_STATE):
        return []
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("list[Any]", value))
    if isinstance(value, MethodType):
        return [value.__self__]
    return list(getattr(value, "__dict__", {}).values())

"""A warning for optimizers of a module that ``L0Module`` has copied: they would train nothing."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor

from l0func.internal.context import compiling


class _Pair(NamedTuple):
    """A parameter that was copied, and its copy."""

    path: str
    original: weakref.ref[Tensor]
    copy: weakref.ref[Tensor]


_PAIRS: dict[int, _Pair] = {}
_WARNED: weakref.WeakSet[Any] = weakref.WeakSet()
_HOOKS: list[Any] = []


def watch(originals: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    """Watch every optimizer's step while the copied parameters live.

    A step that holds such a parameter without a gradient, and not the copy that has one, warns
    once for each optimizer.

    Args:
        originals: The parameters of the module that was copied, by path.
        copies: Those of its copy.
    """
    for path, original in originals.items():
        number = id(original)
        reference = weakref.ref(original, partial(_forget, number))
        _PAIRS[number] = _Pair(path, reference, weakref.ref(copies[path]))
    if _PAIRS and not _HOOKS:
        # torch.optim hides this module behind its class of the same name.
        optimizers: Any = import_module("torch.optim.optimizer")
        _HOOKS.append(optimizers.register_optimizer_step_pre_hook(_before_step))


def _forget(number: int, reference: Any) -> None:
    pair = _PAIRS.get(number)
    if pair is not None and pair.original is reference:
        del _PAIRS[number]
    if not _PAIRS:
        while _HOOKS:
            _HOOKS.pop().remove()


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    if compiling() or optimizer in _WARNED:
        return
    held = {id(p): p for p in _parameters(optimizer)}
    idle: list[str] = []
    for number, p in held.items():
        pair = _PAIRS.get(number)
        copy = None if pair is None else pair.copy()
        if pair is None or copy is None or p.grad is not None or id(copy) in held:
            continue
        if copy.grad is not None:
            idle.append(pair.path)
    if idle:
        _WARNED.add(optimizer)
        _warn(optimizer, idle)


def _warn(optimizer: Any, paths: list[str]) -> None:
    named = ", ".join(map(repr, paths[:3])) + (", ..." if len(paths) > 3 else "")
    warnings.warn(
        f"This {type(optimizer).__name__} holds {named} of a module that L0Module copied, and "
        "they have no gradient: the L0Module trains its own copy. Make the optimizer after "
        "wrapping, from net.weights().values() and net.gates().values().",
        stacklevel=4,
    )


def _parameters(optimizer: Any) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]

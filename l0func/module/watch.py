"""Warnings for optimizers that train nothing, or that decay gates.

The first hold parameters of a module that ``L0Module`` has copied. The second pull every gate to
log_alpha = 0, whatever the loss says.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor

from l0func.internal.context import compiling
from l0func.pure.eager import eager_paths


class _Pair(NamedTuple):
    """A parameter that was copied, and its copy."""

    path: str
    original: weakref.ref[Tensor]
    copy: weakref.ref[Tensor]


class _Gate(NamedTuple):
    name: str
    gate: weakref.ref[Tensor]


_PAIRS: dict[int, _Pair] = {}
_GATES: dict[int, _Gate] = {}
_WARNED: weakref.WeakSet[Any] = weakref.WeakSet()
_HOOKS: list[Any] = []


def watch(originals: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    """Watch every optimizer's step while the copied parameters live.

    A step that holds such a parameter without a gradient, and not the copy that has one, warns
    once for each optimizer.

    Args:
        originals: The parameters of the module that was copied, by path. A compiled module may
            be among them, and its copy is eager.
        copies: Those of its copy.
    """
    for path, original in eager_paths(originals).items():
        number = id(original)
        reference = weakref.ref(original, partial(_forget, number))
        _PAIRS[number] = _Pair(path, reference, weakref.ref(copies[path]))
    _hook()


def watch_decay(gates: Mapping[str, Tensor]) -> None:
    """Watch every optimizer's step while these gates live.

    A step that decays a gate warns once for each optimizer.

    Args:
        gates: Gate locations, by their stored names.
    """
    for name, gate in gates.items():
        number = id(gate)
        _GATES[number] = _Gate(name, weakref.ref(gate, partial(_forget, number)))
    _hook()


def _hook() -> None:
    if (_PAIRS or _GATES) and not _HOOKS:
        # torch.optim hides this module behind its class of the same name.
        optimizers: Any = import_module("torch.optim.optimizer")
        _HOOKS.append(optimizers.register_optimizer_step_pre_hook(_before_step))


def _forget(number: int, reference: Any) -> None:
    pair, gate = _PAIRS.get(number), _GATES.get(number)
    if pair is not None and pair.original is reference:
        del _PAIRS[number]
    if gate is not None and gate.gate is reference:
        del _GATES[number]
    if not _PAIRS and not _GATES:
        while _HOOKS:
            _HOOKS.pop().remove()


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    if compiling() or optimizer in _WARNED:
        return
    _warn_of_decay(optimizer)
    _warn_of_originals(optimizer)


def _warn_of_decay(optimizer: Any) -> None:
    decayed = list(_decayed_gates(optimizer))
    if decayed:
        _WARNED.add(optimizer)
        warnings.warn(
            f"This {type(optimizer).__name__} decays {_first_names(decayed)}, gates of an "
            "L0Module: weight decay pulls every log_alpha to 0, whatever the loss says. Give "
            "net.gates().values() a group of its own with weight_decay=0.",
            stacklevel=5,
        )


def _decayed_gates(optimizer: Any) -> Iterator[str]:
    """The names of gates that a step decays."""
    for group in optimizer.param_groups:
        for p in group["params"] if group.get("weight_decay") else ():
            if id(p) in _GATES and p.grad is not None:
                yield _GATES[id(p)].name


def _warn_of_originals(optimizer: Any) -> None:
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
    warnings.warn(
        f"This {type(optimizer).__name__} holds {_first_names(paths)} of a module that L0Module "
        "copied, and they have no gradient: the L0Module trains its own copy. Make the optimizer "
        "after wrapping, from net.weights().values() and net.gates().values().",
        stacklevel=5,
    )


def _first_names(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _parameters(optimizer: Any) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]

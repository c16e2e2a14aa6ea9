"""Checks of the arguments of ``gated``, of ``per_example`` and of the functions that they return.

Forgotten and swapped arguments are named as such, beside the form of the call.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from l0func.internal.context import compiling, exporting
from l0func.internal.scalars import integer
from l0func.internal.sharding import is_dtensor
from l0func.pure.functional import Functional, PureModule
from l0func.spec.plan import GateSpec

_APPLY_FORM = "apply(params, gates, buffers, key, *inputs)"
_NO_AXES = (str, bytes, float, bool, Tensor, GateSpec)
_ROWS = "rows(params, gates, buffers, keys, *inputs)"


def check_pure(fn: Any) -> None:
    """Refuse anything that cannot be a pure function.

    Raises:
        TypeError: ``fn`` is a module, a tuple from ``make_functional``, or no callable.
    """
    if isinstance(fn, nn.Module):
        raise TypeError(
            f"gated takes a pure function, fn(params, buffers, *inputs); got the module "
            f"{type(fn).__name__}. Make one with fn, params, buffers = "
            "l0func.make_functional(module)."
        )
    if isinstance(fn, Functional):
        raise TypeError(
            "gated takes the function alone; got all that make_functional returns. Unpack it: "
            "fn, params, buffers = l0func.make_functional(module)."
        )
    if isinstance(fn, type):
        raise TypeError(
            f"gated takes a pure function, fn(params, buffers, *inputs); got a class, "
            f"{fn.__name__}. Make a module of it, and the function with "
            "l0func.make_functional(module)."
        )
    if not callable(fn):
        raise TypeError(
            "gated(fn, spec) takes a pure function, fn(params, buffers, *inputs); got "
            f"{type(fn).__name__} as fn."
        )


# A tuple, because the compiler of torch 2.9 makes no union of classes.
_UNGATED = (nn.Module, PureModule, type)


def check_gated(apply: Any) -> None:
    """Refuse anything that cannot be a gated function.

    Raises:
        TypeError: ``apply`` is a module, a pure module without gates, no callable, or a function
            that does not take params, gates, buffers and a key.
    """
    if isinstance(apply, _UNGATED) or not callable(apply):
        raise TypeError(
            f"per_example maps a gated function, {_APPLY_FORM}; got {type(apply).__name__}. Make "
            "one with l0func.gated(fn, spec)."
        )
    _check_takes_gates(apply)


def _check_takes_gates(apply: Any) -> None:
    if compiling():
        return
    try:
        signature = inspect.signature(apply)
    except (TypeError, ValueError):
        # Such as a function in C, which does not show its arguments.
        return
    try:
        signature.bind_partial("params", "gates", "buffers", "key")
    except TypeError:
        name = getattr(apply, "__name__", type(apply).__name__)
        raise TypeError(
            f"per_example maps a gated function, {_APPLY_FORM}; {name}{signature} does not take "
            "these. Make one of a pure function with l0func.gated(fn, spec)."
        ) from None


def check_not_exported() -> None:
    """Refuse ``torch.export``: it traces no stand-ins for weights.

    Raises:
        ValueError: torch.export is tracing this code.
    """
    if exporting():
        raise ValueError(
            "torch.export cannot trace l0func.per_example: each row's weights are stand-ins, and "
            "an exported program has none. Export the gated function for one mask, "
            f"{_APPLY_FORM}, or the test-time network, with key=None or behind l0func.compact. "
            "torch.compile traces per_example."
        )


def check_axes(name: str, axes: Any) -> None:
    """Refuse anything but a dimension, None, or a pytree of these.

    Raises:
        TypeError: ``axes`` is text, a tensor, or another leaf.
    """
    if isinstance(axes, _NO_AXES) or callable(axes):
        raise TypeError(
            f"{name} says where the rows are: a dimension, None for a value that all rows share, "
            f"or a tuple or dict of these; got {type(axes).__name__}."
        )


def check_chunk_size(chunk_size: Any) -> None:
    """Refuse anything but None or a positive number of rows.

    Raises:
        TypeError: ``chunk_size`` is no integer.
        ValueError: It is below 1.
    """
    if chunk_size is None:
        return
    if integer(chunk_size, "chunk_size") < 1:
        raise ValueError(
            f"chunk_size is a number of rows, at least 1; got {chunk_size}. None computes all at "
            "once."
        )


def check_key_argument(key: Any) -> None:
    """Refuse anything but an int64 tensor or None as the key of a gated function.

    Raises:
        TypeError: The key is missing or stands elsewhere; the message has the form of the call.
    """
    _check_plain_key(key)
    if key is not None and not _is_key(key):
        raise TypeError(
            f"The fourth argument is a key, an int64 tensor of shape (2,); got {_kind_of(key)}. "
            f"The call is {_APPLY_FORM}. Make a key with l0func.random.key(seed); None stands for "
            "test-time gates."
        )


def check_keys_argument(keys: Any) -> None:
    """Refuse anything but an int64 tensor as the keys of rows.

    Raises:
        TypeError: The keys are missing or stand elsewhere; the message has the form of the call.
    """
    if keys is None:
        raise TypeError(
            "rows draws masks from keys, and got None. Fixed gates are the same for every row, so "
            f"they belong to the gated function: {_APPLY_FORM}, with None as the key."
        )
    _check_plain_key(keys)
    if not _is_key(keys):
        raise TypeError(
            "The fourth argument has a key for every row, an int64 tensor of shape (B, 2); got "
            f"{_kind_of(keys)}. The call is {_ROWS}. Make keys with "
            "l0func.random.split(key, B)."
        )


def _check_plain_key(key: Any) -> None:
    if isinstance(key, Tensor) and is_dtensor(key):
        raise ValueError(
            "A key is a plain tensor, the same in every process; got a DTensor. Make it in every "
            "process, l0func.random.key(seed), or pass l0func.gather(key)."
        )


def _is_key(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64


def _kind_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} with shape {tuple(value.shape)}"
    if isinstance(value, int):
        return f"the number {value}"
    return type(value).__name__

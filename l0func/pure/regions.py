"""The regions around a random call that the backward pass runs again, read from the call stack.

A region is a block in ``torch.utils.checkpoint`` or the forward of a ``torch.autograd.Function``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from l0func.internal.untyped import untyped

Path = tuple[int, ...]
"""The functions and modules between a region and a call inside it, innermost first, by id."""

_APPLY_CODE: CodeType = untyped.autograd.Function.apply.__func__.__code__
_CALL_CODE: CodeType = untyped.nn.Module.__call__.__code__
_autograd: Any = untyped._C._autograd


def _no_hooks(ignore_is_tracing: bool) -> None:
    """What stands for the question about hooks in torch 2.1, which has none."""


_top_hooks: Any = getattr(_autograd, "_top_saved_tensors_default_hooks", _no_hooks)


class Recomputed(NamedTuple):
    """A block in non-reentrant checkpointing.

    Args:
        record: torch's own record of the block. Its ``recompute_fn`` runs the block again.
    """

    record: Any


class Custom(NamedTuple):
    """The forward of a custom Function, such as reentrant checkpointing.

    Args:
        kind: The Function's class.
        ctx: The call's node in the graph; None for a Function with ``setup_context``, because its
            forward has no ctx.
        call: An object that is the call's own, the tuple of its inputs.
        path: From the region to the call inside it.
    """

    kind: type[Function]
    ctx: Any
    call: object
    path: Path


def frames(stop: CodeType) -> list[FrameType]:
    """The Python frames from the caller up to the first one that runs ``stop``, exclusive.

    A caller that keeps the list in a variable must clear it: the list holds the caller's frame,
    and a cycle would keep the locals of all frames alive.
    """
    found: list[FrameType] = []
    frame = inspect.currentframe()
    frame = None if frame is None else frame.f_back
    while frame is not None and frame.f_code is not stop:
        found.append(frame)
        frame = frame.f_back
    return found


def regions_around(stop: CodeType) -> list[Recomputed | Custom]:
    """The regions around the caller, the innermost first.

    Args:
        stop: The code that entered the context; regions around it belong to others.
    """
    found: list[Recomputed | Custom] = []
    around = frames(stop)
    for i, frame in enumerate(around):
        code = frame.f_code
        if code is _APPLY_CODE:
            found.append(_custom(frame, around[:i]))
        elif code.co_name == "checkpoint":
            found += _recomputed(frame)
    around.clear()
    return found


def path_to(inner: list[FrameType], kind: type[Function]) -> Path:
    """The path from a Function's forward or backward to a call inside it.

    Args:
        inner: The frames from the call up to the Function.
        kind: The Function.
    """
    functions: Any = kind
    ends = {id(_code(functions.forward)), id(_code(functions.backward)), id(_code(functions.vjp))}
    path: list[int] = []
    for frame in inner:
        if id(frame.f_code) in ends:
            break
        if frame.f_globals.get("__name__", "").startswith("l0func."):
            continue
        is_module = frame.f_code is _CALL_CODE
        # Only this frame's locals are read: in Python before 3.13 a frame keeps all that it shows.
        path.append(id(frame.f_locals["self"]) if is_module else id(frame.f_code))
    return tuple(path)


def hooked_block() -> Recomputed | None:
    """The block whose hooks on saved tensors are on top.

    It finds a checkpoint that is no function on the call stack, and none in torch 2.1.
    """
    hooks = _top_hooks(False)
    if hooks is None:
        return None
    for cell in getattr(hooks[0], "__closure__", None) or ():
        if hasattr(cell.cell_contents, "recompute_fn"):
            return Recomputed(cell.cell_contents)
    return None


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


def _recomputed(frame: FrameType) -> Iterator[Recomputed]:
    """The block of a frame in ``torch.utils.checkpoint.checkpoint``, if it has begun."""
    values = frame.f_locals
    is_torch = frame.f_globals.get("__name__") == "torch.utils.checkpoint"
    if not is_torch or values.get("use_reentrant"):
        return
    generator = values.get("gen")
    if getattr(generator, "gi_running", False):
        # The block begins when the generator has yielded.
        return
    suspended = getattr(generator, "gi_frame", None)
    record = None if suspended is None else suspended.f_locals.get("new_frame")
    yield Recomputed(record)


def _custom(apply: FrameType, inner: list[FrameType]) -> Custom:
    """The region of a frame in ``Function.apply``; the frame before it is the forward."""
    forward = inner[-1]
    names = forward.f_code.co_varnames
    values: Any = forward.f_locals
    first = values.get(names[0]) if names else None
    if type(first) is tuple and first:
        # A decorated forward takes *args.
        first = values[names[0]][0]
    ctx = first if isinstance(first, BackwardCFunction) else None
    kind = apply.f_locals["cls"]
    return Custom(kind, ctx, apply.f_locals["args"], path_to(inner, kind))

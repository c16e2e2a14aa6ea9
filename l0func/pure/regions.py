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

_function: Any = untyped.autograd.function
_APPLIES_IN_PYTHON = hasattr(untyped.autograd.Function.apply, "__func__")
"""Later torch applies a Function in C++, which no frame shows, unless a transform is active."""

_APPLY_CODE: CodeType = (
    untyped.autograd.Function.apply.__func__.__code__
    if _APPLIES_IN_PYTHON
    else _function._call_custom_function_call.__code__
)
_BACKWARD_CODES: set[CodeType] = {
    method.__code__ for name, method in vars(BackwardCFunction).items() if name.startswith("apply")
}
# Later torch has two ways in, and one function behind both that runs the block.
_BEHIND_CHECKPOINT = "_checkpoint_impl"
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
        call: An object that is the call's own: the tuple of its inputs, or the forward's frame.
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
    forwards = {} if _APPLIES_IN_PYTHON else _forwards_among(around)
    for i, frame in enumerate(around):
        code = frame.f_code
        if code is _APPLY_CODE:
            found.append(_custom(frame, around[:i]))
        elif id(code) in forwards:
            found += _regions_of_forward(around, i, forwards[id(code)])
        elif code.co_name in ("checkpoint", _BEHIND_CHECKPOINT):
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
    """The block of a frame in ``torch.utils.checkpoint``, if it has begun."""
    values, names = frame.f_locals, frame.f_globals
    is_torch = names.get("__name__") == "torch.utils.checkpoint"
    is_in_front = _BEHIND_CHECKPOINT in names and frame.f_code.co_name != _BEHIND_CHECKPOINT
    if not is_torch or is_in_front or values.get("use_reentrant"):
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
    kind = apply.f_locals["cls"]
    return Custom(kind, _ctx_of(inner[-1]), apply.f_locals["args"], path_to(inner, kind))


def _ctx_of(forward: FrameType) -> Any:
    """The node that a frame has for its first argument, or None."""
    names = forward.f_code.co_varnames
    values: Any = forward.f_locals
    first = values.get(names[0]) if names else None
    if type(first) is tuple and first:
        # A decorated forward takes *args.
        first = values[names[0]][0]
    return first if isinstance(first, BackwardCFunction) else None


def _forwards_among(around: list[FrameType]) -> dict[int, list[Any]]:
    """For the id of each code in these frames that is a Function's forward: the Functions."""
    codes = {id(frame.f_code) for frame in around}
    found: dict[int, list[Any]] = {}
    waiting: list[Any] = [Function]
    while waiting:
        kind = waiting.pop()
        waiting += type.__subclasses__(kind)
        code = id(getattr(kind.forward, "__code__", None))
        if code in codes:
            found.setdefault(code, []).append(kind)
    return found


def _regions_of_forward(around: list[FrameType], place: int, kinds: list[Any]) -> Iterator[Custom]:
    """The region of the frame at ``place``, if it runs the forward of one of these Functions.

    Decorated forwards share the decorator's code, and a Function may inherit its forward.
    """
    forward, inner = around[place], around[: place + 1]
    codes = {id(frame.f_code) for frame in inner}
    own = [kind for kind in kinds if id(_code(kind.forward)) in codes]
    ctx = _ctx_of(forward)
    if ctx is None:
        later = [kind for kind in own if _sets_up_context(kind)]
        found = [Custom(kind, None, forward, path_to(inner, kind)) for kind in later[:1]]
    else:
        # One Function's forward may call another's with its own ctx.
        kind = ctx._forward_cls
        is_forward = kind in own and not _sets_up_context(kind) and _is_first(around, place, ctx)
        found = [Custom(kind, ctx, forward, path_to(inner, kind))] if is_forward else []
    yield from found


def _is_first(around: list[FrameType], place: int, ctx: Any) -> bool:
    """Whether no frame before the one at ``place`` has the same node, as in its backward."""
    outer = around[place + 1 :]
    code = around[place].f_code
    return not any(
        _ctx_of(frame) is ctx
        for frame in outer
        if frame.f_code is code or frame.f_code in _BACKWARD_CODES
    )


def _sets_up_context(kind: Any) -> bool:
    return kind.setup_context is not _function._SingleLevelFunction.setup_context

"""The guard of a call: it refuses reads of the original module's tensors.

A call that reads one would ignore its params. :mod:`l0func.pure.originals` holds the originals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn

from l0func.internal import tree
from l0func.internal.context import traced_by_dynamo
from l0func.internal.descriptions import DESCRIPTIONS
from l0func.internal.interception import Interception, function_name, innermost
from l0func.internal.untyped import TENSOR
from l0func.pure.holders import Unsearched, held_by
from l0func.pure.keyed import Keyed
from l0func.pure.originals import Originals
from l0func.pure.part import Part
from l0func.pure.writers import Before, Writers


class ReadGuard(Unsearched):
    """Refuses a torch function that gets an original as an argument.

    A tensor that the caller passed in is no original in this call.

    Args:
        originals: The originals.
        parts: A function of nothing that gives the tree's paths and parts.
        shapes: The function's shapes, by path.
        params: The call's parameters, by path.
        inputs: The call's other arguments.
    """

    def __init__(
        self,
        originals: Originals,
        parts: Callable[[], Iterable[tuple[str, Part]]],
        shapes: Mapping[str, tuple[int, ...]],
        params: Mapping[str, Tensor],
        inputs: Any,
    ) -> None:
        self._originals = originals
        self._by_id = originals.by_id
        self._parts = parts
        self._shapes = shapes
        self._params = params
        self._inputs = inputs

    @property
    def writers(self) -> Writers:
        """The modules that functions may write on."""
        return self._originals.writers

    def __getstate__(self) -> dict[str, Any]:
        # The originals' dict may not be there yet when the guard is.
        return {name: value for name, value in vars(self).items() if name != "_by_id"}

    def __getattr__(self, name: str) -> Any:
        if name == "_by_id":
            self._by_id = self._originals.by_id
            return self._by_id
        raise AttributeError(name)

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's output, under this guard."""
        if traced_by_dynamo():
            if not self._originals.held:
                return module(*args, **kwargs)
            with _Guarded(self):
                return module(*args, **kwargs)
        mode = innermost(Keyed)
        if mode is None:
            with _Guarded(self):
                return module(*args, **kwargs)
        before, mode.guard = mode.guard, self.look
        try:
            return module(*args, **kwargs)
        finally:
            mode.guard = before

    def around(self, hook: Callable[..., Any]) -> GuardedHook:
        """The hook under this guard."""
        return GuardedHook(hook, self)

    def with_inputs(self, inputs: Any) -> ReadGuard:
        """The same guard for other inputs."""
        return ReadGuard(self._originals, self._parts, self._shapes, self._params, inputs)

    def look(self, func: Any, args: Any, kwargs: Any) -> None:
        """Look at the arguments of one torch function, before it runs.

        Raises:
            ValueError: One is an original.
        """
        if traced_by_dynamo():
            if self._originals.held:
                self._check_traced(func, args, kwargs)
            return
        by_id = self._by_id
        for value in args:
            if id(value) in by_id:
                self._check(func, value)
            elif type(value) in _LISTS:
                self.look(func, value, None)
            elif not _SEES_INDEXING and type(value) is Tensor:
                # A gated parameter would answer with its product.
                self._check(func, value._base)
        if kwargs:
            self.look(func, tuple(kwargs.values()), None)

    def _check_traced(self, func: Any, args: Any, kwargs: Any) -> None:
        # An id would make the compiler compile anew for every tensor; an identity does not.
        values = (*args, *kwargs.values()) if kwargs else args
        for value in values:
            # Not a union of types, which the compiler of torch 2.9 does not follow.
            if isinstance(value, (list, tuple)):
                self._check_traced(func, value, None)
            for path, reference in self._originals.held:
                is_original = value is not None and value is reference()
                if is_original and self._params.get(path) is not value:
                    raise ValueError(f"A call {_READS.format(path=path)} {_HOLDERS_ADVICE}")

    def _check(self, func: Any, value: Any) -> None:
        path = self._originals.path_of(value)
        if path is None or self._params.get(path) is value:
            return
        if func in _DESCRIPTIONS and tuple(value.shape) == self._shapes.get(path, value.shape):
            return
        if any(leaf is value for _, leaf in tree.walk(self._inputs)):
            return
        routes = [held.route for held in held_by(self._parts()) if held.value is value]
        holder = f"It gets it from {routes[0]}." if routes else _UNKNOWN
        reads = _READS.format(path=path)
        raise ValueError(f"The {function_name(func)} {reads} {holder} {_HOLDERS_ADVICE}")


class GuardedHook:
    """A hook for the backward pass, which runs after the call and so outside of its guard.

    Args:
        hook: The hook.
        guard: The guard around it.
    """

    def __init__(self, hook: Callable[..., Any], guard: ReadGuard) -> None:
        self.hook = hook
        self.guard = guard

    def __call__(self, *args: Any) -> Any:
        """What the hook returns.

        Raises:
            ValueError: It reads an original.
        """
        with _Guarded(self.guard):
            return self.hook(*args)


class GuardedCalls(Unsearched):
    """Hooks for a plain module whose functions and objects hold tensors of another one.

    Args:
        guard: The guard for every call.
    """

    def __init__(self, guard: ReadGuard) -> None:
        self._guard = guard
        self._entered: dict[int, list[tuple[_Guarded, list[Before]]]] = {}

    def register(self, module: nn.Module) -> None:
        """Let the module's calls run under the guard."""
        module.register_forward_pre_hook(self.enter, prepend=True, with_kwargs=True)
        module.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The guard begins."""
        if not traced_by_dynamo():
            context = _Guarded(self._guard.with_inputs((args, kwargs)))
            context.__enter__()
            before = self._guard.writers.before()
            self._entered.setdefault(get_ident(), []).append((context, before))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """The guard ends."""
        own = None if traced_by_dynamo() else self._entered.get(get_ident())
        if own:
            context, before = own.pop()
            cast("Any", context).__exit__(None, None, None)
            self._guard.writers.check(before)

    def __getstate__(self) -> dict[str, Any]:
        return {"_guard": self._guard, "_entered": {}}


def _sees_indexing() -> bool:
    """Whether ``tensor[i]`` reaches a mode; in torch 2.1 only what is done with it next does."""
    seen: list[Any] = []
    with _Noting(seen):
        torch.empty(1, device="meta")[0]
    return len(seen) > 1


class _Noting(Interception):
    """A context that notes every torch function."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__({})
        self.guard = lambda func, args, kwargs: seen.append(func)


class _Guarded(Interception):
    """A context with a guard and nothing else."""

    def __init__(self, guard: ReadGuard) -> None:
        super().__init__({})
        self.guard = guard.look


_SEES_INDEXING = _sees_indexing()
_LISTS: Any = (list, tuple)
_DESCRIPTIONS = DESCRIPTIONS | {TENSOR.is_leaf.__get__}
_READS = (
    "reads {path!r} of the module that make_functional was given, in place of the {path!r} in the "
    "call's params or buffers."
)
_UNKNOWN = "No attribute leads to it: look for a global variable, an iterator or a closure."
_HOLDERS_ADVICE = (
    "Functions and objects that hold a module or a tensor cannot be pointed at a call's tensors. "
    "Make the function a method of the module, or bind it with functools.partial; let an object "
    "take the tensor as an argument of its call; register tensors that are made from parameters "
    "as buffers, or make them in forward."
)

"""The tensors of the module that a pure function was made from, and a watch for reads of them.

What a part cannot point at the call's tensors, such as a closure, still holds these originals. A
call that read one would ignore its params, so the watch refuses it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from l0func.internal import tree
from l0func.internal.context import traced_by_dynamo
from l0func.internal.function_kinds import DESCRIPTIONS
from l0func.internal.interception import Interception, function_name, innermost
from l0func.internal.untyped import loose
from l0func.pure.eager import scripted
from l0func.pure.holders import Held, held_by
from l0func.pure.keyed import Keyed
from l0func.pure.part import Part


class Original(NamedTuple):
    """One tensor: the parameter or buffer that it is, or that it is a view of."""

    path: str
    reference: weakref.ref[Tensor]


class Originals:
    """Weak references to the tensors of a module, and to views of them that its objects hold.

    Args:
        tensors: Its parameters and buffers, by their paths.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.by_id: dict[int, Original] = {}
        self.held: list[Original] = []
        self._add(tensors.items())

    def search(self, parts: Iterable[tuple[str, Part]]) -> None:
        """Note what the module's functions and objects hold: originals, and views of them.

        Raises:
            TypeError: They hold TorchScript that runs on an original, and no watch can see that.
        """
        places = _Memory(self)
        held: dict[int, tuple[str, Tensor]] = {}
        for found in held_by(parts):
            for tensor in _tensors_of(found):
                path = places.path_of(tensor)
                if path is None:
                    continue
                if tensor is not found.value:
                    raise scripted(found.route, found.value)
                held[id(tensor)] = (path, tensor)
        self._add(held.values())
        self.held = [self.by_id[ident] for ident in held]

    def path_of(self, tensor: Any) -> str | None:
        """The path of an original; None for any other tensor."""
        known = self.by_id.get(id(tensor))
        is_it = known is not None and known.reference() is tensor
        return known.path if known is not None and is_it else None

    def _add(self, named: Iterable[tuple[str, Tensor]]) -> None:
        for path, tensor in named:
            ident = id(tensor)
            forget = _Forget(self.by_id, ident)
            self.by_id[ident] = Original(path, weakref.ref(tensor, forget))

    def _alive(self, originals: Iterable[Original]) -> list[tuple[str, Tensor]]:
        found: list[tuple[str, Tensor]] = []
        for path, reference in originals:
            tensor = reference()
            if tensor is not None:
                found.append((path, tensor))
        return found

    def __getstate__(self) -> list[tuple[str, Tensor]]:
        # Objects are pickled with their tensors, and read the copies of them afterwards.
        return self._alive(self.held)

    def __setstate__(self, held: list[tuple[str, Tensor]]) -> None:
        self.by_id = {}
        self._add(held)
        self.held = [self.by_id[id(tensor)] for _, tensor in held]

    def __deepcopy__(self, memo: dict[int, Any]) -> Originals:
        # A deep copy has copies of objects, and the same functions: it may read either.
        alive = self._alive(list(self.by_id.values()))
        copies = [(path, memo[id(tensor)]) for path, tensor in alive if id(tensor) in memo]
        held = [(path, memo.get(id(tensor))) for path, tensor in self._alive(self.held)]
        twin = Originals({})
        twin._add([*alive, *copies])
        twin.held = [*self.held]
        twin.held += [twin.by_id[id(copy)] for _, copy in held if copy is not None]
        return twin


class _Forget:
    """A weak reference's callback: the number of a dead tensor may be given to another object."""

    def __init__(self, by_id: dict[int, Original], ident: int) -> None:
        self._by_id, self._ident = by_id, ident

    def __call__(self, reference: Any) -> None:
        known = self._by_id.get(self._ident)
        if known is not None and known.reference is reference:
            del self._by_id[self._ident]


class _Memory:
    """The originals by the memory that they use, for views of them."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals
        self._paths: dict[Any, str] = {}
        for original in originals.by_id.values():
            memory = _memory(original.reference())
            if memory is not None:
                self._paths.setdefault(memory, original.path)

    def path_of(self, tensor: Tensor) -> str | None:
        """The path of the original that a tensor is, or is a view of."""
        path = self._originals.path_of(tensor)
        return self._paths.get(_memory(tensor)) if path is None else path


def _memory(tensor: Tensor | None) -> Any:
    """A tensor's storage as a dict key, None if it has none of its own."""
    try:
        storage = loose(tensor).untyped_storage()
        return (storage.device, storage.data_ptr()) if storage.nbytes() else None
    except (AttributeError, RuntimeError, NotImplementedError):
        # Sparse, fake and wrapped tensors have no storage to ask.
        return None


def _tensors_of(found: Held) -> Iterable[Tensor]:
    value = found.value
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "parameters"):
        return [*value.parameters(), *value.buffers()]
    constants = [n for n in value.graph.nodes() if n.kind() == "prim::Constant"]
    tensors = [n for n in constants if n.hasAttribute("value") and n.kindOf("value") == "t"]
    return [n.t("value") for n in tensors]


class Watch:
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
        self.by_id = originals.by_id
        self.held = originals.held
        self._originals = originals
        self._parts = parts
        self._shapes = shapes
        self._params = params
        self._inputs = inputs

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's output, under this watch."""
        if traced_by_dynamo():
            if not self.held:
                return module(*args, **kwargs)
            with _Watched(self):
                return module(*args, **kwargs)
        mode = innermost(Keyed)
        if mode is None:
            with _Watched(self):
                return module(*args, **kwargs)
        before, mode.watch = mode.watch, self
        try:
            return module(*args, **kwargs)
        finally:
            mode.watch = before

    def __call__(self, func: Any, args: Any, kwargs: Any) -> None:
        """Look at the arguments of one torch function, before it runs.

        Raises:
            ValueError: One is an original.
        """
        if traced_by_dynamo():
            if self.held:
                self._check_traced(func, args, kwargs)
            return
        by_id = self.by_id
        for value in args:
            if id(value) in by_id:
                self._check(func, value)
            elif type(value) in (list, tuple):
                self(func, value, None)
        if kwargs:
            self(func, tuple(kwargs.values()), None)

    def _check_traced(self, func: Any, args: Any, kwargs: Any) -> None:
        # An id would make the compiler compile anew for every tensor; an identity does not.
        values = (*args, *kwargs.values()) if kwargs else args
        for value in values:
            if isinstance(value, list | tuple):
                self._check_traced(func, value, None)
            for path, reference in self.held:
                is_original = value is not None and value is reference()
                if is_original and self._params.get(path) is not value:
                    raise ValueError(_READS.format(path=path))

    def _check(self, func: Any, value: Any) -> None:
        path = self._originals.path_of(value)
        if path is None or self._params.get(path) is value:
            return
        if func in DESCRIPTIONS and tuple(value.shape) == self._shapes.get(path, value.shape):
            return
        if any(leaf is value for _, leaf in tree.walk(self._inputs)):
            return
        routes = [held.route for held in held_by(self._parts()) if held.value is value]
        holder = f"It is reached by {routes[0]}. " if routes else ""
        name = function_name(func)
        raise ValueError(f"{_READS.format(path=path)} {holder}{_ADVICE} It was {name} that got it.")


class _Watched(Interception):
    """A context with a watch and nothing else."""

    def __init__(self, watch: Watch) -> None:
        super().__init__({})
        self.watch = watch


_READS = (
    "The call reads {path!r} of the module that make_functional was given, and would ignore the "
    "{path!r} in its params or buffers."
)
_ADVICE = (
    "Functions and objects that hold a module or a tensor cannot be pointed at a call's tensors. "
    "Make the function a method of the module, or bind it with functools.partial; let an object "
    "take the tensor as an argument of its call; register tensors that are made from parameters "
    "as buffers, or make them in forward."
)

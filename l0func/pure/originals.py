"""The tensors of the module that a pure function was made from, held by weak references.

What a part cannot point at the call's tensors, such as a closure, still holds these originals.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn

from l0func.internal.untyped import loose
from l0func.pure.eager import scripted
from l0func.pure.holders import FOUND, Held, Unsearched, all_held_by
from l0func.pure.part import Part
from l0func.pure.writers import Writers


class Original(NamedTuple):
    """One tensor: the parameter or buffer that it is, or that it is a view of."""

    path: str
    reference: weakref.ref[Tensor]


class Originals(Unsearched):
    """Weak references to the tensors of a module, and to views of them that its objects hold.

    Args:
        tensors: Its parameters and buffers, by their paths.
        modules: Its modules.
    """

    def __init__(self, tensors: Mapping[str, Tensor], modules: Iterable[nn.Module] = ()) -> None:
        self.by_id: dict[int, Original] = {}
        self.held: list[Original] = []
        self.writers = Writers(modules)
        self._add(tensors.items())

    def search(self, parts: Iterable[tuple[str, Part]]) -> None:
        """Note what the module's functions and objects hold: originals, and views of them.

        Raises:
            TypeError: They hold TorchScript that runs on an original, and no guard can see that.
        """
        places = _Memory(self)
        held: dict[int, tuple[str, Tensor]] = {}
        everything = list(all_held_by(parts))
        self.writers.find(everything)
        for found in everything:
            if not isinstance(found.value, FOUND):
                continue
            for tensor in _own_tensors(found):
                path = places.path_of(tensor)
                if path is None:
                    continue
                if tensor is not found.value:
                    raise scripted(f"The value of {found.route},", found.value)
                held[id(tensor)] = (path, tensor)
        self._add(held.values())
        self.held = [self.by_id[ident] for ident in held]

    def joined(self, others: Originals) -> Originals:
        """These and other originals, before a search."""
        # What a function writes on the live module is there for its owner to read.
        joined = Originals({}, others.writers.alive())
        for originals in (self, others):
            joined._add(self._alive(list(originals.by_id.values())))
        return joined

    def is_held(self) -> bool:
        """Whether functions and objects of the module hold an original that still exists."""
        return bool(self._alive(self.held))

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
        self.by_id, self.writers = {}, Writers([])
        self._add(held)
        self.held = [self.by_id[id(tensor)] for _, tensor in held]

    def __deepcopy__(self, memo: dict[int, Any]) -> Originals:
        # A deep copy has copies of objects, and the same functions: it may read either.
        alive = self._alive(list(self.by_id.values()))
        held = self._alive(self.held)
        copies = [(path, deepcopy(tensor, memo)) for path, tensor in held if tensor.is_leaf]
        twin = Originals({})
        twin._add([*alive, *copies])
        # Functions are shared, and so is what they write on.
        twin.writers = self.writers
        twin.held = [twin.by_id[id(tensor)] for _, tensor in [*held, *copies]]
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

    @cached_property
    def _paths(self) -> dict[Any, str]:
        """The path at each address; most modules hold nothing, and never ask."""
        paths: dict[Any, str] = {}
        for original in self._originals.by_id.values():
            memory = _memory_key(original.reference())
            if memory is not None:
                paths.setdefault(memory, original.path)
        return paths

    def path_of(self, tensor: Tensor) -> str | None:
        """The path of the original that a tensor is, or is a view of."""
        path = self._originals.path_of(tensor)
        return self._paths.get(_memory_key(tensor)) if path is None else path


def _memory_key(tensor: Any) -> Any:
    """A tensor's storage as a dict key, None if it has none of its own."""
    try:
        storage = loose(tensor).untyped_storage()
        address = storage.data_ptr()
        # Tensors on the meta device have none.
        return (storage.device, address) if address else None
    except (AttributeError, RuntimeError, NotImplementedError):
        # Sparse, fake and wrapped tensors have no storage to ask.
        return None


def _own_tensors(found: Held) -> Iterable[Tensor]:
    value = found.value
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "parameters"):
        return [*value.parameters(), *value.buffers()]
    constants = [n for n in value.graph.nodes() if n.kind() == "prim::Constant"]
    tensors = [n for n in constants if n.hasAttribute("value") and n.kindOf("value") == "t"]
    return [n.t("value") for n in tensors]

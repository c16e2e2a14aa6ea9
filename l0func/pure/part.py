"""One module of a tree without its tensors and submodules: places stand for them.

:class:`Part` is that module, and it can fill a new one. ``PureModule`` holds one part for each
module; ``compaction`` changes the sizes in them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor, nn

from l0func.internal.context import traced_by_dynamo
from l0func.internal.turns import ignoring
from l0func.pure.eager import is_graph_module
from l0func.pure.places import ChildPlace, Contents, Places, TensorPlace, holds_place

_REGISTERED = ("_parameters", "_buffers", "_modules")
_OWN_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HOOK_TABLES = (
    *_OWN_TABLES,
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
"""The tables of hooks that nn.Module calls, and those that describe hooks by their numbers."""


@dataclass
class Part:
    """One module: its class, its plain attributes, and places for everything else.

    Args:
        kind: Its class.
        plain: The attributes that all calls share.
        parameters: Places for its own parameters, by name; None for a name without a parameter.
        buffers: Places for its own buffers, likewise.
        children: Places for its children, likewise.
        mutable: The other attributes: containers, and values that hold tensors or modules. Places
            stand for those, and every call gets its own copies.
    """

    kind: type[nn.Module]
    plain: dict[str, Any]
    parameters: dict[str, TensorPlace | None]
    buffers: dict[str, TensorPlace | None]
    children: dict[str, ChildPlace | None]
    mutable: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        # A GraphModule's own __new__ would generate a class without its forward, and that of a
        # module which FSDP shards would run __init__ of the class without FSDP.
        is_made_plainly = is_graph_module(self.kind) or is_fsdp(self.kind)
        self._maker: Any = object if is_made_plainly else self.kind

    @classmethod
    def of(cls, module: nn.Module, places: Places) -> Part:
        """The part for one module.

        Args:
            module: A module in the tree.
            places: The tree's places.
        """
        attributes = vars(module)
        tables = [_placed_items(attributes[table], places) for table in _REGISTERED]
        part = cls(type(module), {}, *tables)
        for name, value in attributes.items():
            if is_bookkeeping(name) and not value:
                # Most attributes are empty hook tables.
                part.plain[name] = cast("Any", type(value))()
            elif name not in _REGISTERED:
                part._hold(name, _own(module, name, value), places)
        return part

    def _hold(self, name: str, value: Any, places: Places) -> None:
        placed = places.put_in(value)
        # Calls copy a hook table as it is, unless a hook is bound to one of the tree's modules.
        is_shared = placed is value or (is_bookkeeping(name) and not holds_place(placed))
        home = self.plain if is_shared else self.mutable
        home[name] = placed

    def new(self) -> nn.Module:
        """An empty module of this kind."""
        return self._maker.__new__(self.kind)

    def paths(self) -> dict[str, str]:
        """Paths of its own parameters and buffers, by their names in the module."""
        places = self.parameters | self.buffers
        return {name: place.path for name, place in places.items() if place is not None}

    def attributes(self) -> dict[str, Any]:
        """Its attributes, without tensors and submodules."""
        return self.plain | self.mutable

    def attribute(self, name: str) -> Any:
        """One of its attributes; None if it has none of this name."""
        return self.mutable.get(name, self.plain.get(name))

    def with_attribute(self, name: str, value: Any) -> Part:
        """The same part with another value for one attribute."""
        if name in self.mutable:
            return replace(self, mutable=self.mutable | {name: value})
        return replace(self, plain=self.plain | {name: value})

    def with_backward_hooks(self, change: Callable[[Any], Any]) -> Part:
        """The same part with every hook for the backward pass changed."""
        part = self
        for name in ("_backward_pre_hooks", "_backward_hooks"):
            table: dict[int, Any] = self.plain.get(name) or {}
            if table:
                changed = {number: change(hook) for number, hook in table.items()}
                part = part.with_attribute(name, OrderedDict(changed))
        return part

    def fill(self, module: nn.Module, contents: Contents) -> None:
        """Give an empty module of this kind its attributes.

        They go straight into its ``__dict__``, so that the class's ``__setattr__`` does not run.
        """
        tensors = contents.tensors
        attributes, plain = module.__dict__, self.plain
        if traced_by_dynamo():
            # torch 2.11's compiler follows no other way.
            for name, value in plain.items():
                attributes[name] = value
        else:
            attributes.update(plain)
        for name in _OWN_TABLES:
            # A hook that forward registers is its own call's.
            table = plain.get(name)
            if table is not None:
                attributes[name] = OrderedDict(table) if table else OrderedDict()
        attributes["_parameters"] = {
            name: None if place is None else tensors[place.path]
            for name, place in self.parameters.items()
        }
        attributes["_buffers"] = {
            name: None if place is None else tensors[place.path]
            for name, place in self.buffers.items()
        }
        attributes["_modules"] = {
            name: None if place is None else place.filled(contents)
            for name, place in self.children.items()
        }
        for name, value in self.mutable.items():
            attributes[name] = contents.put_in(value)

    def buffers_of(self, module: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Paths and tensors of the buffers that a filled module holds now."""
        for name, place in self.buffers.items():
            if place is not None:
                yield place.path, getattr(module, name)


def _placed_items(table: dict[str, Any], places: Places) -> dict[str, Any]:
    return {name: places.put_in(value) for name, value in table.items()}


def _own(module: nn.Module, name: str, value: Any) -> Any:
    """An attribute as the part holds it: without the original's compiled code and its graph."""
    if name == "_compiled_call_impl":
        return None
    if is_bookkeeping(name):
        # A hook that the original gets later is not the function's.
        return copy(value)
    if name == "_graph" and is_graph_module(type(module)):
        return copied_graph(value)
    return value


def copied_graph(graph: Any) -> Any:
    """A copy of a GraphModule's graph, which refers to no module."""
    # torch's own code, in a copy of a tree's structure.
    with ignoring(FutureWarning):
        return deepcopy(graph)


def is_bookkeeping(name: str) -> bool:
    """Whether an attribute is one of nn.Module's tables that a call reads and does not write."""
    is_hook_table = name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
    return is_hook_table or name == "_non_persistent_buffers_set"


def is_fsdp(kind: type[nn.Module]) -> bool:
    """Whether a module's class is one that ``fully_shard`` made."""
    # By its name: an import of torch.distributed.fsdp takes a second.
    return any(base.__name__ == "FSDPModule" for base in kind.__mro__)

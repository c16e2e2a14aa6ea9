"""The kinds of object in which modules return two tensors, each with a way to read them."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import optree
import torch
from torch import Tensor, nn
from torch.utils import _pytree

T = TypeVar("T")
Pair = tuple[Tensor, Tensor]


class Named(NamedTuple):
    y: Tensor
    h: Tensor
    loss: Tensor | None = None


class NamedWithMethods(Named):
    def total(self) -> Tensor:
        return self.y.sum() + self.h.sum()


@dataclasses.dataclass
class Plain:
    y: Tensor
    h: Tensor
    loss: Tensor | None = None
    label: str = "text"


@dataclasses.dataclass(frozen=True)
class Frozen:
    y: Tensor
    h: Tensor


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("h", "y")
    y: Tensor
    h: Tensor


@dataclasses.dataclass
class Nested:
    inner: Frozen
    rest: dict[str, list[int]]


@dataclasses.dataclass
class NotInit:
    y: Tensor
    h: Tensor = dataclasses.field(init=False)


@dataclasses.dataclass
class PostInit:
    pair: dataclasses.InitVar[Pair]

    def __post_init__(self, pair: Pair) -> None:
        assert isinstance(pair[0], Tensor)
        self.y, self.h = pair


@dataclasses.dataclass
class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: a dict and a dataclass; a field that is None is no item."""

    y: Tensor | None = None
    loss: Tensor | None = None
    h: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.y is None or isinstance(self.y, Tensor | int)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("A ModelOutput has no update.")


class RegisteredOutput(ModelOutput):
    """As in transformers, with its registration in torch's pytrees."""


def _output_from(values: Any, names: Any) -> RegisteredOutput:
    return RegisteredOutput(**dict(zip(names, values, strict=True)))


class Attributes:
    def __init__(self, y: Tensor, h: Tensor) -> None:
        self.y, self.h = y, h


class ByTwoSlots:
    __slots__ = ("__weakref__", "h", "unset", "y")

    def __init__(self, y: Tensor, h: Tensor) -> None:
        self.y, self.h = y, h


class Typed(Generic[T]):
    def __init__(self, y: T, h: T) -> None:
        self._pair = y, h

    @cached_property
    def y(self) -> T:
        return self._pair[0]

    @property
    def h(self) -> T:
        return self._pair[1]


class Cache:
    """As DynamicCache: lists of tensors, which grow."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.layers: list[Attributes] = []

    def update(self, y: Tensor, h: Tensor) -> Cache:
        self.keys.append(y)
        self.layers.append(Attributes(h, h))
        return self


class DictWithNote(dict[str, Tensor]):
    def __init__(self, note: str, **items: Tensor) -> None:
        super().__init__(**items)
        self.note = note


class OwnDict(dict[str, Tensor]):
    def __init__(self, **items: Tensor) -> None:
        super().__init__(**items)
        self.__dict__ = self


class Factory(defaultdict[str, Any]):
    pass


class ReadOnly(Mapping[str, Tensor]):
    def __init__(self, **items: Tensor) -> None:
        self._items = items

    def __getitem__(self, key: str) -> Tensor:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Encoding(UserDict[str, Any]):
    """As transformers' BatchEncoding."""

    def __init__(self, data: dict[str, Any], note: str) -> None:
        super().__init__(data)
        self.note = note

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


class Tuple(tuple[Any, ...]):
    __slots__ = ()


class List(list[Any]):
    pass


class InOptree:
    def __init__(self, y: Tensor, h: Tensor) -> None:
        self.y, self.h = y, h


class InTorch(InOptree):
    pass


def _flat(value: InOptree) -> tuple[list[Tensor], None]:
    return [value.y, value.h], None


optree.register_pytree_node(InOptree, _flat, lambda _, pair: InOptree(*pair), namespace="tests")
_register = getattr(_pytree, "register_pytree_node", None) or _pytree._register_pytree_node
_register(InTorch, _flat, lambda pair, _: InTorch(*pair))
_register(RegisteredOutput, lambda o: (list(o.values()), list(o.keys())), _output_from)


class LeavesOut(InOptree):
    """A class that is registered with one of its tensors only."""


def _first(value: LeavesOut) -> tuple[list[Tensor], Tensor]:
    return [value.y], value.h


_register(LeavesOut, _first, lambda children, h: LeavesOut(*children, h))


def _not_init(y: Tensor, h: Tensor) -> NotInit:
    made = NotInit(y)
    made.h = h
    return made


def _own_attribute(y: Tensor, h: Tensor) -> Attributes:
    made = Attributes(y, h)
    vars(made)["later"] = {"nothing": None}
    return made


def _by_key(o: Any) -> Pair:
    return o["y"], o["h"]


def _by_name(o: Any) -> Pair:
    return o.y, o.h


def _by_place(o: Any) -> Pair:
    return o[0], o[1]


class Kind(NamedTuple):
    build: Callable[[Tensor, Tensor], Any]
    read: Callable[[Any], Pair]


KINDS: dict[str, Kind] = {
    "tuple": Kind(lambda y, h: (y, h), _by_place),
    "list": Kind(lambda y, h: [y, h], _by_place),
    "dict": Kind(lambda y, h: {"y": y, "h": h, "n": 3}, _by_key),
    "OrderedDict": Kind(lambda y, h: OrderedDict(y=y, h=h), _by_key),
    "defaultdict": Kind(lambda y, h: defaultdict(list, {"y": y, "h": h}), _by_key),
    "deque": Kind(lambda y, h: deque([y, h]), _by_place),
    "namedtuple": Kind(Named, _by_name),
    "namedtuple with methods": Kind(NamedWithMethods, _by_name),
    "structseq": Kind(lambda y, h: torch.return_types.max((y, h)), _by_place),
    "dataclass": Kind(Plain, _by_name),
    "frozen dataclass": Kind(Frozen, _by_name),
    "dataclass with slots": Kind(Slotted, _by_name),
    "nested dataclass": Kind(lambda y, h: Nested(Frozen(y, h), {}), lambda o: _by_name(o.inner)),
    "dataclass with a later field": Kind(_not_init, _by_name),
    "dataclass with post-init": Kind(lambda y, h: PostInit((y, h)), _by_name),
    "ModelOutput": Kind(lambda y, h: ModelOutput(y=y, h=h), _by_key),
    "ModelOutput by name": Kind(lambda y, h: ModelOutput(y=y, h=h), _by_name),
    "registered ModelOutput": Kind(lambda y, h: RegisteredOutput(y=y, h=h), _by_name),
    "UserDict": Kind(lambda y, h: UserDict(y=y, h=h), _by_key),
    "UserList": Kind(lambda y, h: UserList([y, h]), _by_place),
    "BatchEncoding": Kind(lambda y, h: Encoding({"y": y, "h": h}, "note"), _by_name),
    "namespace": Kind(lambda y, h: types.SimpleNamespace(y=y, h=h, n=None), _by_name),
    "object": Kind(_own_attribute, _by_name),
    "object with slots": Kind(ByTwoSlots, _by_name),
    "generic object": Kind(Typed, _by_name),
    "cache": Kind(lambda y, h: Cache().update(y, h), lambda o: (o.keys[0], o.layers[0].h)),
    "dict with an attribute": Kind(lambda y, h: DictWithNote("note", y=y, h=h), _by_key),
    "dict that is its own __dict__": Kind(lambda y, h: OwnDict(y=y, h=h), _by_name),
    "subclass of defaultdict": Kind(lambda y, h: Factory(list, y=y, h=h), _by_key),
    "own mapping": Kind(lambda y, h: ReadOnly(y=y, h=h), _by_key),
    "mapping proxy": Kind(lambda y, h: types.MappingProxyType({"y": y, "h": h}), _by_key),
    "subclass of tuple": Kind(lambda y, h: Tuple([y, h]), _by_place),
    "subclass of list": Kind(lambda y, h: List([y, h]), _by_place),
    "in optree's registry": Kind(InOptree, _by_name),
    "in torch's registry": Kind(InTorch, _by_name),
    "deeply nested": Kind(
        lambda y, h: {"a": [Plain(y, Attributes(h, h))]}, lambda o: (o["a"][0].y, o["a"][0].h.h)
    ),
}


class Returns(nn.Module):
    """Three layers; the output holds the last layer's units and the second's hidden ones."""

    def __init__(self, build: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.build = build

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.b(torch.relu(self.a(x))))
        return self.build(self.c(h), h)

"""A search from a module's functions and objects to the tensors that they hold.

It looks where parts put no places: into closures, globals, hook tables, and other objects.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from l0func.pure.part import Part, is_bookkeeping
from l0func.pure.places import Place

# The search ends here: an object may lead to a whole data set.
_MOST_VALUES = 20_000
_MOST_ITEMS = 1_000


class Unsearched:
    """A base for the library's own objects, which the search leaves out."""


class Held(NamedTuple):
    """A tensor or a TorchScript object, and the way to it from a module's attribute.

    Attributes:
        value: What was found.
        route: The way there, in words.
    """

    value: Any
    route: str


class _Found(NamedTuple):
    value: Any
    start: str
    steps: tuple[str, ...]


def held_by(parts: Iterable[tuple[str, Part]], /) -> Iterator[Held]:
    """All tensors that a tree's functions and objects lead to, the nearest first.

    Args:
        parts: The tree's paths and parts.
    """
    return (held for held in all_held_by(parts) if isinstance(held.value, FOUND))


def all_held_by(parts: Iterable[tuple[str, Part]], /) -> Iterator[Held]:
    """The same with modules and containers.

    Args:
        parts: The tree's paths and parts.
    """
    parts = list(parts)
    queue = deque(step for path, part in parts for step in _in_part(path, part))
    for kind in {kind for _, part in parts for kind in part.kind.__mro__}:
        queue.extend(_in_class(kind))
    seen: dict[int, Any] = {}
    while queue and len(seen) < _MOST_VALUES:
        value, start, steps = queue.popleft()
        if id(value) in seen or isinstance(value, _UNSEARCHED):
            continue
        # The value too: its id is its own as long as it lives.
        seen[id(value)] = value
        if isinstance(value, _YIELDED):
            yield Held(value, _route_text(start, steps))
        for name, item in _held_in(value):
            if type(item) not in _COMMON:
                queue.append(_Found(item, start, (*steps, name)))


def _in_part(path: str, part: Part) -> Iterator[_Found]:
    module = f"module {path!r}" if path else "the module"
    for name, value in part.attributes().items():
        # Torch's hooks for norms and pruning compute a weight anew from its original.
        is_computed = f"{name}_orig" in part.parameters
        if is_computed or _is_common(value):
            continue
        if is_bookkeeping(name) and isinstance(value, dict):
            for hook in list(cast("dict[Any, Any]", value).values()):
                yield _Found(hook, f"a hook in {name!r} of {module}", ())
        else:
            yield _Found(value, f"attribute {name!r} of {module}", ())


def _is_common(value: Any) -> bool:
    """Whether an attribute clearly leads nowhere: a constant, or constants in a container."""
    kind = cast("Any", type(value))
    if kind in (tuple, list):
        return all(type(item) in _COMMON for item in value)
    return kind in _COMMON or (kind in (dict, OrderedDict, set) and not value)


def _in_class(kind: type) -> Iterator[_Found]:
    if kind.__module__.startswith("torch."):
        return
    for name, value in list(vars(kind).items()):
        held = _behind_descriptor(value)
        is_function = isinstance(held, types.FunctionType | functools.partial)
        is_own = is_function or not name.startswith("__")
        if is_own and not _is_common(held) and not isinstance(held, _UNSEARCHED):
            yield _Found(held, f"{name!r} of class {kind.__name__}", ())


def _behind_descriptor(value: Any) -> Any:
    if isinstance(value, property):
        return value.fget
    if isinstance(value, staticmethod | classmethod):
        return cast("Any", value).__func__
    # A slot or a getter of the interpreter's own, and torch's annotations, lead nowhere.
    return None if type(value).__name__ in _DESCRIPTORS else value


def _route_text(start: str, steps: tuple[str, ...]) -> str:
    through = f", through {', '.join(steps)}" if steps else ""
    return f"{start}{through}"


def _held_in(value: Any) -> list[tuple[str, Any]]:
    try:
        return list(_next(value))
    except Exception:
        # The code of a stranger's object may raise anything.
        return []


def _next(value: Any) -> Iterator[tuple[str, Any]]:
    """The values that a value holds, each with a name for it."""
    if isinstance(value, Tensor):
        return
    for kind, inside in _INSIDE:
        if isinstance(value, kind):
            yield from inside(value)
    if not isinstance(value, types.FunctionType | type | nn.Module):
        yield from _in_object(value)


def _in_method(method: Any) -> Iterator[tuple[str, Any]]:
    yield "the object of a bound method", method.__self__
    yield "its function", getattr(method, "__func__", None)


def _in_reference(reference: Any) -> Iterator[tuple[str, Any]]:
    yield "a weak reference", reference()


def _in_mapping(mapping: Any) -> Iterator[tuple[str, Any]]:
    for name, item in _first(mapping.items()):
        yield f"key {name!r}" if isinstance(name, str) else "a key", item
        yield "a key", name
    yield "its default factory", getattr(mapping, "default_factory", None)


def _in_sequence(sequence: Any) -> Iterator[tuple[str, Any]]:
    for number, item in enumerate(_first(sequence)):
        yield f"item {number}", item


def _first(items: Any) -> list[Any]:
    found: list[Any] = []
    found.extend(islice(items, _MOST_ITEMS))
    return found


def _in_module(module: Any) -> Iterator[tuple[str, Any]]:
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        yield f"its tensor {path!r}", tensor
    for name, value in list(module.__dict__.items()):
        if isinstance(value, torch.jit.ScriptModule | Tensor):
            yield f"attribute {name!r}", value


def _in_function(function: Any) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield f"its variable {name!r}", _content(cell)
    for value in function.__defaults__ or ():
        yield "a default value", value
    named: dict[str, Any] = function.__kwdefaults__ or {}
    for name, value in named.items():
        yield f"the default value of {name!r}", value
    for name, value in list(function.__dict__.items()):
        yield f"its attribute {name!r}", value
    if not (function.__module__ or "").startswith("torch."):
        yield from _in_globals(code, function.__globals__)


def _in_globals(code: types.CodeType, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in code.co_names:
        value = known.get(name)
        is_imported = getattr(value, "__module__", None) != known.get("__name__")
        if isinstance(value, types.FunctionType) and is_imported:
            # The functions of whole libraries would follow.
            continue
        yield f"the global variable {name!r}", value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _in_globals(constant, known)


def _in_partial(value: Any) -> Iterator[tuple[str, Any]]:
    yield "the function of a partial", value.func
    for number, item in enumerate(value.args):
        yield f"argument {number} of a partial", item
    for name, item in value.keywords.items():
        yield f"argument {name!r} of a partial", item


def _in_object(value: Any) -> Iterator[tuple[str, Any]]:
    attributes: dict[str, Any] = getattr(value, "__dict__", {})
    for name, item in list(attributes.items()):
        yield f"attribute {name!r}", item
    own = cast("Any", type(value))
    for kind in own.__mro__:
        slots: Any = kind.__dict__.get("__slots__", ())
        names: list[str] = [slots] if isinstance(slots, str) else list(slots)
        for name in names:
            yield f"attribute {name!r}", getattr(value, name, None)
    call = own.__dict__.get("__call__")
    if isinstance(call, types.FunctionType):
        yield "its method '__call__'", call


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


_Inside = Callable[[Any], Iterator[tuple[str, Any]]]
_INSIDE: list[tuple[Any, _Inside]] = [
    (nn.Module, _in_module),
    (types.FunctionType, _in_function),
    ((types.MethodType, types.BuiltinMethodType, types.MethodWrapperType), _in_method),
    (functools.partial, _in_partial),
    (weakref.ref, _in_reference),
    (Mapping, _in_mapping),
    ((list, tuple, set, frozenset, deque), _in_sequence),
]
_DESCRIPTORS = frozenset(("getset_descriptor", "member_descriptor", "_abc_data"))
_COMMON = frozenset((type(None), bool, int, float, str))
FOUND: Any = (Tensor, torch.jit.ScriptModule, torch.jit.ScriptFunction)
"""The types that the search is for: tensors, and code that holds tensors."""
_YIELDED: Any = (*FOUND, nn.Module, dict, list, set)
_UNSEARCHED: Any = (
    *(type(None), bool, int, float, complex, str, bytes, types.ModuleType, types.CodeType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType),
    *(torch.dtype, torch.device, torch.Generator, type, Place, Unsearched),
)

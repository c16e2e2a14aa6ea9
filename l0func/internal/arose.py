"""Where an error arose: the module, and the code, that its traceback shows."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from torch import nn

from l0func.internal.source_line import OWN_FOLDER, TORCH_FOLDER


class Passed(NamedTuple):
    """A function that was running when an error arose."""

    function: str
    """Its name."""

    own: Any
    """Its ``self`` or ``cls``; None for a plain function."""

    by_torch: bool
    """Whether the function is torch's."""


def passed_by(error: BaseException, /) -> list[Passed]:
    """The functions outside of this package that an error passed, the innermost first."""
    return list(_from_outside(error))[::-1]


def _from_outside(error: BaseException) -> Iterator[Passed]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename.startswith(OWN_FOLDER):
            continue
        first = code.co_varnames[0] if code.co_argcount else ""
        own = frame.f_locals.get(first) if first in ("self", "cls") else None
        yield Passed(code.co_name, own, code.co_filename.startswith(TORCH_FOLDER))


def classes_named(error: BaseException, base: type, /) -> list[type]:
    """The subclasses of a class that the code names in which an error arose."""
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    code, seen = frame.f_code, {**frame.f_globals, **frame.f_locals}
    names = (*code.co_names, *code.co_varnames, *code.co_freevars)
    values = [seen[name] for name in names if name in seen]
    homes: list[dict[str, Any]] = [vars(value) for value in values if hasattr(value, "__dict__")]
    values += [home[name] for home in homes for name in names if name in home]
    # A class, or a class method of it.
    kinds = [*values, *(getattr(value, "__self__", None) for value in values)]
    return [one for one in kinds if isinstance(one, type) and issubclass(one, base)]


def module_of(found: list[Passed], /) -> str:
    """The innermost module among them: its class and its path, or an empty text."""
    modules = [one.own for one in found if isinstance(one.own, nn.Module)]
    if not modules:
        return ""
    inner, root = modules[0], modules[-1]
    own: list[tuple[str, nn.Module]] = list(cast("Any", root).named_modules())
    paths = [path for path, module in own if module is inner and path]
    return f"{type(inner).__name__} {paths[0]!r}" if paths else type(inner).__name__

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


def module_of(found: list[Passed], /) -> str:
    """The innermost module among them: its class and its path, or an empty text."""
    modules = [one.own for one in found if isinstance(one.own, nn.Module)]
    if not modules:
        return ""
    inner, root = modules[0], modules[-1]
    own: list[tuple[str, nn.Module]] = list(cast("Any", root).named_modules())
    paths = [path for path, module in own if module is inner and path]
    return f"{type(inner).__name__} {paths[0]!r}" if paths else type(inner).__name__

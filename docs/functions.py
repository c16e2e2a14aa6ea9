"""The torch functions that the library runs in a way of its own, by kind, for operations.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional as F

from l0func.engine.ops import HANDLERS
from l0func.pure.by_row import ROW_HANDLERS
from l0func.pure.dropped_buffers import WATCH_HANDLERS
from l0func.pure.fresh import FRESH_HANDLERS
from l0func.pure.keyed import KEYED_HANDLERS
from l0func.pure.keyed_draws import PLAIN_DRAWS
from l0func.pure.reads import READ_HANDLERS
from l0func.pure.refused import REFUSED_HANDLERS
from l0func.pure.writes import WRITE_HANDLERS
from l0func.pure.written_out.table import REPLACEMENTS
from l0func.tracing.follow import HANDLERS as TRACE_HANDLERS

PLACES: tuple[tuple[str, Any], ...] = (
    ("Tensor", torch.Tensor),
    ("torch", torch),
    ("F", F),
    ("init", torch.nn.init),
    ("autograd", torch.autograd),
)

_RANDOM_INITIALISERS = (
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "xavier_normal_",
    "xavier_uniform_",
)
"""They are composed of draws."""


def label(function: Any) -> str:
    """The place and the name of a torch function, as in ``"Tensor: chunk"``."""
    # A property, such as Tensor.T, is looked up by its descriptor's __get__.
    owner = getattr(function, "__self__", None)
    is_property = getattr(function, "__name__", "") == "__get__"
    if is_property:
        return f"Tensor: {getattr(owner, '__name__', owner)}"
    name: str = getattr(function, "__name__", str(function))
    for place, within in PLACES:
        if getattr(within, name, None) is function:
            return f"{place}: {name}"
    for place, within in PLACES:
        for other in sorted(vars(within)):
            if getattr(within, other, None) is function:
                return f"{place}: {other}"
    return f"torch: {name}"


def by_label(functions: Iterable[Any]) -> dict[str, Any]:
    """Torch functions by their labels, sorted."""
    return dict(sorted((label(function), function) for function in functions))


_NAMES_OF_DRAWS = ("dropout", "rrelu", "gumbel")


def _is_named_draw(function: Any) -> bool:
    return any(name in function.__name__ for name in _NAMES_OF_DRAWS)


_REPLACED = {*REPLACEMENTS, *REFUSED_HANDLERS}
_DRAWS = [
    *PLAIN_DRAWS,
    *[getattr(torch.nn.init, name) for name in _RANDOM_INITIALISERS],
    *filter(_is_named_draw, KEYED_HANDLERS.keys() - _REPLACED),
]
# torch shows Tensor.set_ to no context.
_WRITES = WRITE_HANDLERS.keys() - {
    *_DRAWS,
    *FRESH_HANDLERS,
    *READ_HANDLERS,
    *REFUSED_HANDLERS,
    torch.Tensor.set_,
}
_ROWS = {f: handler for f, handler in ROW_HANDLERS.items() if f not in REPLACEMENTS}
_BACKWARDS = [torch.autograd.backward, torch.autograd.grad, torch.Tensor.backward]

FUNCTIONS: dict[str, dict[str, Any]] = {
    "gated": by_label(HANDLERS),
    "draws": by_label(_DRAWS),
    "writes": by_label(_WRITES),
    "fresh": by_label(FRESH_HANDLERS),
    "reads": by_label(READ_HANDLERS),
    "written out": by_label(REPLACEMENTS),
    "rows": by_label({**_ROWS, **WATCH_HANDLERS, **TRACE_HANDLERS}),
    "backwards": by_label(_BACKWARDS),
    "refused": by_label(REFUSED_HANDLERS),
}
"""For each kind its functions, by their labels. A function may be of several kinds."""

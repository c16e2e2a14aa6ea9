"""Whether a network has ALiBi: biases of attention with a slope for each head.

Source: Press, Smith & Lewis (2022), arXiv:2108.12409. The slopes follow from the number of heads,
so that heads cannot go without a change of those that stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

ALIBI_ADVICE = (
    "if they are heads: the module makes its ALiBi slopes from the number of heads, so that with "
    "fewer heads all slopes change; keep the slopes in a buffer with one entry for each head, or "
    "leave the heads and gate the units of the feed-forward layers"
)


def has_alibi(kinds: Iterable[type[nn.Module]]) -> bool:
    """Whether one of these classes has ALiBi in the names of its methods or of its forward."""
    return any("alibi" in name.lower() for kind in kinds for name in _names_that_it_uses(kind))


def _names_that_it_uses(kind: type[nn.Module]) -> list[str]:
    code: Any = getattr(kind.forward, "__code__", None)
    names = [] if code is None else [*code.co_names, *code.co_varnames]
    return [*vars(kind), *names]

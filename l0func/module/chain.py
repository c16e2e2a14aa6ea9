"""Two L0Modules of one network with one key: both would have the same numbers in their masks.

The graph of autograd shows that one runs behind the other. Networks that train side by side may
have one key on purpose, to be compared under the same masks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.internal.context import compiling
from l0func.internal.graph import nodes_behind
from l0func.internal.outputs import visible_tensors

_DRAW = "l0func.module.chain"
_LOOKED: set[int] = set()
"""The numbers of keys with which a module has looked at the graph of its inputs."""


class Drawn(NamedTuple):
    """One forward of a module in training."""

    number: int
    """The number of the module's key in this process."""

    key: Tensor
    draws: Tensor
    """The forwards in training so far."""


def linked(draw: Drawn, inputs: Any, output: Any) -> Any:
    """The output, whose graph now knows the draw.

    Args:
        draw: The draw of this forward.
        inputs: The inputs of the forward; at its first one their graph is looked at.
        output: What forward returns.

    Raises:
        ValueError: A module with the same key and count made the inputs.
    """
    if compiling() or not torch.is_grad_enabled():
        return output
    if draw.number not in _LOOKED:
        _look_behind(draw, inputs)
    for t in visible_tensors(output):
        node: Any = t.grad_fn
        if node is not None:
            node.metadata[_DRAW] = draw
    return output


def _look_behind(draw: Drawn, inputs: Any) -> None:
    given = [t for t in visible_tensors(inputs) if t.grad_fn is not None]
    if not given:
        return
    for node in nodes_behind(given):
        earlier = node.metadata.get(_DRAW)
        if earlier is not None and _draws_alike(earlier, draw):
            raise ValueError(
                "Two L0Modules of this network have the same key and have drawn equally often, so "
                "their masks would come from the same numbers. A copy has the key of its "
                "original, and equal seeds give equal keys. Wrap each part for itself with a seed "
                "of its own, L0Module(part, lam, seed=i), or wrap the whole network once."
            )
    _LOOKED.add(draw.number)


def _draws_alike(one: Drawn, other: Drawn) -> bool:
    if one.number == other.number or int(one.draws) != int(other.draws):
        return False
    return torch.equal(one.key, other.key.to(one.key.device))

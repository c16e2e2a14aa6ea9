"""The nodes of custom Functions in the graph behind a call's outputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from l0func.internal.tree import level_of
from l0func.internal.untyped import loose, untyped


def custom_nodes(output: Any) -> list[Any]:
    """The nodes of custom Functions that the output's graph holds, each once.

    Args:
        output: A pytree.
    """
    seen: set[Any] = set()
    found: list[Any] = []
    waiting = [loose(tensor).grad_fn for tensor in _output_tensors(output)]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            found.append(node)
        waiting += [following for following, _ in node.next_functions]
    return found


def function_of(node: Any, kind: Any) -> Any:
    """The Function of a node, if its forward is that of ``kind``; None of another one.

    Of two Functions with the same forward, the call stack does not tell which one ran.
    """
    own: Any = node._forward_cls
    if _forward_of(own) is _forward_of(kind):
        return own
    # torch.func.grad puts a generated class in the Function's place.
    return kind if own.__name__ == f"{kind.__name__}Generated" else None


def _forward_of(kind: Any) -> Any:
    """The code of a Function's forward; a decorated forward has the code of its decorator."""
    return getattr(kind.forward, "__code__", kind.forward)


def sequence_of(node: Any) -> int:
    """A node's number in the order of creation."""
    return node._sequence_nr()


def next_sequence() -> int:
    """The number of the next node, in this thread."""
    return untyped._C._autograd._get_sequence_nr()


def _output_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    level = level_of(value)
    found: list[Tensor] = []
    for child in () if level is None else level.children:
        found += _output_tensors(child)
    return found

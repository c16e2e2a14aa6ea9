"""A warning where gates meet parameters that they were multiplied into already."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from l0func.gates.checks import Gates
from l0func.internal.context import compiling, known_values
from l0func.internal.sharding import is_dtensor
from l0func.internal.watch import listed_names, warn_user
from l0func.spec.plan import GateSpec


def warn_if_pruned(caller: str, params: Mapping[str, Tensor], z: Gates, spec: GateSpec) -> None:
    """Warn where parameters look as if :func:`l0func.prune` had made them with these gates.

    They do if every entry behind a closed gate is 0, in tensors that are mostly not 0 elsewhere.
    Open gates of 0 and 1 change nothing a second time, and nothing is said. Zeros in a single row
    tell nothing: the row of a padding index is one. A right use may look the same, such as weights
    that began at 0 and read an input that is always 0.

    The smallest parameters come first, and the first one that was not pruned ends the search.
    DTensors are not looked at, which would take messages; nor are values that are unknown, under a
    transform or a compiler or on the meta device.

    Args:
        caller: The public function that got them.
        params: Parameters, flat.
        z: ``{gate name: value of each gate}``, 0 where it is closed.
        spec: The gate spec.
    """
    if compiling() or not _changes_again(z, spec):
        return
    opens = {name: (value != 0).to(value.dtype) for name, value in z.items()}
    emptied: list[str] = []
    for p in sorted(spec.gated(), key=lambda p: p.size):
        weight = params[p.path]
        if is_dtensor(weight):
            return
        closed, filled = p.spread(opens, owned=True) == 0, weight != 0
        if known_values((filled & closed).any()) is not False:
            return
        if _closes_what_would_be_there(closed.expand(p.shape), filled):
            emptied.append(p.path)
    if emptied:
        warn_user(
            f"{caller} got parameters that look pruned already: every entry behind a closed gate "
            f"is 0, as in {listed_names(sorted(emptied))}. The other gates are not all 1, and "
            f"they would count twice. Give {caller} the params from before prune; a pruned "
            "network runs as fn(pruned, buffers, x), without gates. If an unpruned network has "
            "these zeros, the result is right."
        )


def _changes_again(z: Gates, spec: GateSpec) -> bool:
    """Whether a gate is closed, and another one multiplies by a number between 0 and 1."""
    multiplying = {b.gate for p in spec.gated() for b in p.bindings if b.multiplies}
    if any(is_dtensor(value) for value in z.values()):
        return False
    closes = any(known_values((value == 0).any()) for value in z.values())
    if not closes:
        return False
    partly = (((z[name] != 0) & (z[name] != 1)).any() for name in multiplying)
    return any(known_values(some) for some in partly)


def _closes_what_would_be_there(closed: Tensor, filled: Tensor) -> bool:
    """Whether it is no chance that all entries behind closed gates are 0.

    Args:
        closed: A mask of a parameter's entries: true behind a closed gate.
        filled: A mask of the entries that are not 0; none of them is closed.
    """
    # In a tensor of one row, such as the weight of a single output, each entry is a row.
    sizes = [n for n in closed.shape if n > 1] or [1]
    rows = closed.reshape(sizes[0], -1).any(1)
    return int(rows.sum()) > 1 and 2 * int(filled.sum()) > int((~closed).sum())

"""What came of each way of training in distributed.py, as a table."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from distributed_sent import Sent, held
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path

import l0func as l0

PARTS = ("params", "gates", "moments")
HEADS = (*PARTS, "sent", "collectives", "loss off", "state off", "masks")


class Result(NamedTuple):
    """One way of training, beside one process."""

    held: list[int]
    """Bytes of each part of the state on this rank."""
    alone: list[int]
    """The same on one process."""
    sent: Sent
    """What this rank sent in a step."""
    losses: float
    """The largest relative difference of a loss."""
    states: float
    """The largest difference in the last state, in parts of the largest value."""
    masks: bool
    """Whether the first masks of all ranks are equal, bit for bit."""
    digest: str
    """Of the last state."""


def result(own: Any, alone: Any, sent: Sent, losses: list[float], masks: bool) -> Result:
    """The result of a run on several ranks; a collective."""
    whole, expected = l0.gather(own.state), alone.state
    pairs = [(getattr(whole, part), getattr(expected, part)) for part in PARTS[:2]]
    states = max(difference(mine, theirs) for mine, theirs in pairs)
    sizes = [[held(getattr(run.state, part)) for part in PARTS] for run in (own, alone)]
    return Result(*sizes, sent, max(losses), states, masks, digest(whole))


def difference(own: dict[str, Tensor], whole: dict[str, Tensor]) -> float:
    """The largest difference of two dicts of tensors, in parts of the largest value."""
    worst = max(float((own[name] - t).detach().abs().max()) for name, t in whole.items())
    return worst / max(float(t.detach().abs().max()) for t in whole.values())


def digest(state: l0.TrainState) -> str:
    """The SHA-256 of all tensors of a state, in the order of their paths."""
    named = {str(path): t for path, t in tree_flatten_with_path(state)[0] if t is not None}
    tensors = [named[path].detach().cpu().numpy() for path in sorted(named)]
    return hashlib.sha256(b"".join(t.tobytes() for t in tensors)).hexdigest()


def table(results: dict[str, Result]) -> str:
    """What rank 0 holds and sends, and how far it is from one process."""
    alone = next(iter(results.values())).alone
    lines = [f"{'bytes of rank 0':16}" + "".join(f"{head:>12}" for head in HEADS)]
    lines.append(f"{'one process':16}" + counts(*alone, 0, 0))
    for way, found in results.items():
        off = f"{found.losses:12.0e}{found.states:12.0e}{'equal' if found.masks else 'other':>12}"
        lines.append(f"{way:16}{counts(*found.held, found.sent.bytes, found.sent.calls)}{off}")
    return "\n".join(lines)


def counts(*numbers: int) -> str:
    return "".join(f"{number:12,}" for number in numbers)

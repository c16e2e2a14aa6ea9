"""What differs between two gate specs, in words: a spec's text leaves distributions out."""

from __future__ import annotations

from l0func.spec.plan import GateSpec


def another_distribution(saved: GateSpec, own: GateSpec) -> str | None:
    """The first gate vector that has another distribution; None if all have the same.

    Args:
        saved: The spec of a file.
        own: The spec of this run.
    """
    for theirs, ours in zip(saved.gates, own.gates, strict=False):
        if theirs.distribution != ours.distribution and theirs.name == ours.name:
            return f"{ours.name!r} is {theirs.distribution} there and {ours.distribution} here."
    return None

"""What a sample of mutants shows: the share that the tests kill, and what is left."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

Z = 1.959964
"""Standard errors on each side of a 95 % interval."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share."""
    share = successes / trials
    middle = share + Z * Z / (2 * trials)
    spread = Z * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    scale = 1 + Z * Z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def diff(before: str, after: str) -> str:
    """The lines that a mutant changes."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join([line for line in lines if line[:3] not in ("---", "+++") and line[0] != "@"])


def equivalents(path: Path) -> dict[tuple[str, str], str]:
    """The reason why a mutant is equivalent, by its file and the lines that it changes."""
    found = json.loads(path.read_text())
    return {(entry["source"], entry["diff"]): entry["reason"] for entry in found}


def report(records: list[dict[str, Any]], known: dict[tuple[str, str], str]) -> str:
    """A page about the mutants that ran."""
    alive = [record for record in records if record["outcome"] == "survived"]
    equal = [record for record in alive if (record["source"], record["diff"]) in known]
    left = [record for record in alive if record not in equal]
    counts = Counter([record["outcome"] for record in records])
    killed, tried = counts["killed"] + counts["timed out"], len(records) - len(equal)
    lines = [
        f"{len(records)} mutants ran: {counts['killed']} were killed, {counts['timed out']} more "
        f"by the time limit, {len(alive)} survived, {len(equal)} of them equivalent."
    ]
    if tried:
        low, high = wilson(killed, tried)
        lines += [
            f"Killed of those not equivalent: {killed} of {tried}, {killed / tried:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%})."
        ]
    for record in left:
        lines += ["", f"{record['source']}:{record['line']} {record['operator']}", record["diff"]]
    return "\n".join(lines)

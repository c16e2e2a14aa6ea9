"""How many digits gates have, against references with 30 digits.

    python tests/bench/digits.py

Prints a table in Markdown: for each distribution the fewest digits over all locations, in float64,
float32, bfloat16 and float16. Probabilities and moments have relative digits. Draws and their
references share u and the location, and have absolute digits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import mpmath as mp
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "distributions"))
from references import drawn, moment, survival

import l0func as l0

GATES = [
    *(l0.HardConcrete(beta) for beta in (0.05, 2 / 3, 5.0)),
    l0.HardConcrete(2 / 3, -0.001, 1.001),
    *(l0.HardKuma(scale) for scale in (0.2, 1.0, 5.0)),
    *(l0.GaussianGate(sigma) for sigma in (0.05, 0.5, 5.0)),
    l0.BernoulliGate(),
]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# All types hold these exactly.
MILD = (-12.0, -3.0, -0.5, 0.0, 0.75, 2.0, 9.0)
WIDE = (-80.0, -35.0, *MILD, 35.0, 80.0)
UNIFORMS = (2.0**-20, 0.25, 0.5, 0.75, 1 - 2.0**-20)
ALL = 17.0
"""The digits of a value that is its reference, to the last bit of a float64."""
COLUMNS = ("P(z > 0)", "P(z = 1)", "P(z = 0)", "draws", "E[z]", "E[z²]")


def digits(value: torch.Tensor, exact: mp.mpf, least: float) -> float:
    """Digits of a value, relative to its reference or to the least number that counts."""
    error = abs(mp.mpf(float(value)) - exact) / max(abs(exact), mp.mpf(least))
    return ALL if error == 0 else -float(mp.log10(error))


def row(d: l0.GateDistribution, dtype: torch.dtype) -> list[float]:
    """The fewest digits of each column."""
    # Smaller numbers have fewer digits in the type itself.
    tiny = max(1e-30, torch.finfo(dtype).tiny)
    found = [ALL] * len(COLUMNS)

    def note(column: int, value: torch.Tensor, exact: mp.mpf, least: float) -> None:
        found[column] = min(found[column], digits(value, exact, least))

    for location in WIDE:
        la, exact = torch.tensor(location, dtype=dtype), mp.mpf(location)
        opened = survival(d, mp.mpf(0), exact)
        note(0, d.prob_nonzero(la), opened, tiny)
        note(1, d.prob_one(la), survival(d, mp.mpf(1), exact), tiny)
        note(2, d.cdf(0.0, la), 1 - opened, tiny)
    for location in MILD:
        la = torch.tensor(location, dtype=dtype)
        for u in UNIFORMS:
            given = torch.tensor(u, dtype=torch.float64 if dtype == torch.float64 else None)
            note(3, d.quantile(given, la), drawn(d, u, mp.mpf(location)), 1.0)
        note(4, d.mean(la), moment(d, location, 1), tiny)
        note(5, d.second_moment(la), moment(d, location, 2), tiny)
    return found


def shown(d: l0.GateDistribution) -> str:
    settings = ", ".join(f"{value:.4g}" for value in vars(d).values() if type(value) is float)
    return f"{type(d).__name__}({settings})"


def cell(numbers: Sequence[float]) -> str:
    """Half digits, rounded down: the last bits differ between machines."""
    return " ".join("all" if n == ALL else f"{math.floor(2 * n) / 2:.1f}" for n in numbers)


def main() -> None:
    print("| gate | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    with mp.workdps(80):
        for d in GATES:
            of_types = [row(d, dtype) for dtype in DTYPES]
            cells = [cell(numbers) for numbers in zip(*of_types, strict=True)]
            print(f"| `{shown(d)}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

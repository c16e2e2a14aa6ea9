"""Draws against torch's own, interleaved in one run: eager, and drawing with masking compiled.

    python tests/bench/draws.py

Prints a table and, as the last line, the same as JSON. Ratios are torch's time over ours: larger
is better. A split of keys stands against torch.randint's as many words."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import l0func as l0
from l0func import random


def medians(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender, one call of every contender a round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 3):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[3:]) for name, values in times.items()}


def hard_concrete(u: Tensor, log_alpha: Tensor) -> Tensor:
    """The paper's formula, as a user would write it."""
    return (torch.sigmoid((torch.logit(u) + log_alpha) / (2 / 3)) * 1.2 - 0.1).clamp(0, 1)


def eager_rows(threads: int) -> list[dict[str, Any]]:
    """Draws without a compiler around them."""
    key, words = random.key(0), 2**62
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[str, int, Callable[[int], Any], Callable[[int], Any]]] = [
        ("uniform", 3, lambda n: random.uniform(key, n), torch.rand),
        ("uniform", 10**5, lambda n: random.uniform(key, n), torch.rand),
        ("uniform", 10**6, lambda n: random.uniform(key, n), torch.rand),
        ("uniform", 10**7, lambda n: random.uniform(key, n), torch.rand),
        ("normal", 10**6, lambda n: random.normal(key, n), torch.randn),
        ("split", 10**5, lambda n: random.split(key, n), lambda n: torch.randint(words, (n, 2))),
    ]
    for name, n, ours, theirs in pairs:
        t = medians(
            {"l0": lambda n=n, f=ours: f(n), "torch": lambda n=n, f=theirs: f(n)},
            60 if n < 10**7 else 15,
        )
        case = f"{name}, eager, {l0.kernel_in_use()}, {threads} threads, {n:.0e} draws"
        rows.append({"case": case, "ratio": t["torch"] / t["l0"], "draws_per_s": n / t["l0"]})
    return rows


def main() -> None:
    rows: list[dict[str, Any]] = []
    key = random.key(0)
    default = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows += eager_rows(threads)
    torch.set_num_threads(default)
    for n in (235_200, 2_352_000):
        params = {"w": torch.empty(n)}
        spec = l0.gate_spec(params)
        gates = l0.init_gates(key, spec)
        ours = torch.compile(
            lambda k, g, spec=spec: l0.sample_masks(k, g, spec)["w"], fullgraph=True
        )
        same = torch.compile(
            lambda la: l0.HardConcrete().quantile(torch.rand(la.shape), la), fullgraph=True
        )
        paper = torch.compile(
            lambda la: hard_concrete(torch.rand(la.shape).clamp(1e-6, 1 - 1e-6), la),
            fullgraph=True,
        )
        t = medians(
            {
                "l0": lambda ours=ours, gates=gates: ours(key, gates),
                "same": lambda same=same, gates=gates: same(gates["w"]),
                "paper": lambda paper=paper, gates=gates: paper(gates["w"]),
            },
            60,
        )
        speed = n / t["l0"]
        rows.append(
            {
                "case": f"draw and mask, compiled, {n:.1e} gates, same formula",
                "ratio": t["same"] / t["l0"],
                "draws_per_s": speed,
            }
        )
        rows.append(
            {
                "case": f"draw and mask, compiled, {n:.1e} gates, paper's formula",
                "ratio": t["paper"] / t["l0"],
                "draws_per_s": speed,
            }
        )
    print(f"{'case':62}{'torch / l0func':>20}{'M draws/s':>12}")
    for row in rows:
        print(f"{row['case']:62}{row['ratio']:20.2f}{row['draws_per_s'] / 1e6:12.0f}")
    print(
        json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})
    )


if __name__ == "__main__":
    main()

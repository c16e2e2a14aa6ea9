"""A mask for every example, against what a user would write and against the ungated layer: forward
and backward, interleaved.

    python tests/bench/masks.py [table]

Prints a table, or all of them, and as the last line the same as JSON. "vmap" is torch.vmap over
``weight * mask`` with torch.rand noise."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import CHANNELS, ENTRIES, Case, Step, lenet, medians
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func import random


def structured() -> list[dict[str, Any]]:
    found = []
    for name, rule in (("row", l0.axis(0)), ("column", l0.axis(1))):
        # The input asks for a slope, as a hidden layer's does: with gates on columns it is
        # computed in any case.
        x = torch.randn(256, 1024, requires_grad=True)
        case = Case(nn.Linear(1024, 1024), x, {"weight": rule, "*": None})
        ways = {
            "eager": case.rows(),
            "ungated": case.ungated(),
            "compiled": case.rows(True),
            "ungated c": case.ungated(True),
        }
        t = medians(ways, 21)
        title = f"a gate per {name}, Linear 1024→1024, B 256"
        found.append(
            {"case": f"{title}, eager", "over ungated": t["eager"] / t["ungated"], "target": 1.35}
        )
        found.append(
            {
                "case": f"{title}, compiled",
                "over ungated": t["compiled"] / t["ungated c"],
                "target": 1.1,
            }
        )
    case = Case(lenet(), torch.randn(128, 1, 28, 28), CHANNELS)
    t = medians({"eager": case.rows(), "ungated": case.ungated()}, 21)
    found.append(
        {
            "case": "conv channels, LeNet-5-Caffe, B 128",
            "over ungated": t["eager"] / t["ungated"],
            "target": 1.2,
        }
    )
    return found


TITLE = "a gate per weight, exact, Linear 784→300, B 128"


def entries() -> list[dict[str, Any]]:
    case = Case(nn.Linear(784, 300), torch.randn(128, 784), ENTRIES)
    ways = {
        "eager": case.rows(),
        "compiled": case.rows(True),
        "vmap": case.vmap(),
        "vmap c": case.vmap(True),
        "draws": case.draws_alone(),
    }
    t = medians(ways, 9)
    return [
        {"case": f"{TITLE}, eager, against vmap", "faster": t["vmap"] / t["eager"], "target": 18},
        {
            "case": f"{TITLE}, eager, against compiled vmap",
            "faster": t["vmap c"] / t["eager"],
            "target": 5,
        },
        {
            "case": f"{TITLE}, in a compiled step, against vmap",
            "faster": t["vmap"] / t["compiled"],
            "target": 18,
        },
        {
            "case": f"{TITLE}, eager, over its draws alone",
            "slower": t["eager"] / t["draws"],
            "target": 1.6,
        },
    ]


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A user's own distribution: a clipped logistic variable."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


DISTRIBUTIONS = (
    l0.HardConcrete(),
    l0.HardConcrete(0.5),
    l0.HardKuma(),
    l0.GaussianGate(),
    l0.BernoulliGate(),
    LogisticGate(),
)


def distributions() -> list[dict[str, Any]]:
    """Every distribution, and a user's own, against vmap over its own formula."""
    found = []
    for distribution in DISTRIBUTIONS:
        case = Case(nn.Linear(784, 300), torch.randn(128, 784), ENTRIES, distribution)
        ways = {"eager": case.rows(), "compiled": case.rows(True), "vmap": case.vmap()}
        t = medians(ways, 5)
        for way in ("eager", "compiled"):
            row = {"case": f"{TITLE}, {distribution}, {way}", "faster": t["vmap"] / t[way]}
            found.append(row)
    return found


def local() -> list[dict[str, Any]]:
    case = Case(nn.Linear(1024, 1024), torch.randn(256, 1024), ENTRIES)
    settings: dict[str, Any] = {"sampling": "local_reparam"}
    ways = {
        "e": case.rows(**settings),
        "u": case.ungated(),
        "c": case.rows(True, **settings),
        "uc": case.ungated(True),
    }
    t = medians(ways, 11)
    title = "a gate per weight, local reparameterisation, Linear 1024→1024, B 256"
    return [
        {"case": f"{title}, eager", "over ungated": t["e"] / t["u"], "target": 4},
        {"case": f"{title}, compiled", "over ungated": t["c"] / t["uc"], "target": 3.3},
    ]


def steps() -> list[dict[str, Any]]:
    """Whole training steps of LeNet-300-100: draws, forward, penalty, backward, Adam."""
    module = nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    case = Case(module, torch.rand(100, 784), ENTRIES)
    labels = torch.arange(100) % 10
    apply = l0.gated(case.fn, case.spec)
    rows = l0.per_example(l0.gated(case.fn, case.spec, sampling="local_reparam"))

    def ungated(params: Any, gates: Any, key: Tensor) -> Tensor:
        return F.cross_entropy(case.fn(params, case.buffers, case.x), labels)

    def shared(params: Any, gates: Any, key: Tensor) -> Tensor:
        loss = F.cross_entropy(apply(params, gates, case.buffers, key, case.x), labels)
        return loss + l0.penalty(params, gates, case.spec, lam=1e-6)

    def local(params: Any, gates: Any, key: Tensor) -> Tensor:
        outputs = rows(params, gates, case.buffers, random.split(key, 100), case.x)
        return F.cross_entropy(outputs, labels) + l0.penalty(params, gates, case.spec, lam=1e-6)

    def trained(loss: Callable[..., Tensor], compiled: bool) -> Step:
        params = {name: p.detach().clone().requires_grad_() for name, p in case.params.items()}
        gates = {name: la.detach().clone().requires_grad_() for name, la in case.gates.items()}
        leaves = [*params.values(), *(gates.values() if loss is not ungated else ())]
        adam = torch.optim.Adam(leaves, lr=1e-4, fused=compiled)
        value = torch.compile(loss, fullgraph=True) if compiled else loss

        def run() -> None:
            value(params, gates, case.key).backward()
            adam.step()
            adam.zero_grad()

        return run

    ways = {
        f"{f.__name__} {c}": trained(f, c == "compiled")
        for f in (ungated, shared, local)
        for c in ("eager", "compiled")
    }
    t = medians(ways, 31)
    title = "LeNet-300-100, a gate per weight, B 100, a whole step with Adam"
    targets = {
        ("shared", "compiled"): 1.8,
        ("shared", "eager"): 2,
        ("local", "compiled"): 4.3,
        ("local", "eager"): 4,
    }
    return [
        {
            "case": f"{title}, {way}, {mode}",
            "over ungated": t[f"{way} {mode}"] / t[f"ungated {mode}"],
            "target": target,
        }
        for (way, mode), target in targets.items()
    ]


def convolutions() -> list[dict[str, Any]]:
    case = Case(lenet(), torch.randn(128, 1, 28, 28), ENTRIES)
    ways = {"eager": case.rows(), "compiled": case.rows(True), "vmap": case.vmap()}
    t = medians(ways, 5)
    title = "a gate per weight, exact, LeNet-5-Caffe, B 128, against vmap"
    return [
        {"case": f"{title}, eager", "faster": t["vmap"] / t["eager"], "target": 10},
        {"case": f"{title}, in a compiled step", "faster": t["vmap"] / t["compiled"]},
    ]


PEAK = """
import re, sys, torch
sys.path.insert(0, sys.argv[1])
import masks

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024

# The machine code is loaded first.
small = masks.Case(torch.nn.Linear(5, 3), torch.randn(2, 5), masks.ENTRIES)
getattr(small, sys.argv[2])()()
case = masks.Case(torch.nn.Linear(784, 300), torch.randn(int(sys.argv[3]), 784), masks.ENTRIES)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
getattr(case, sys.argv[2])()()
print(status("VmHWM") - before)
"""


def peak(way: str, rows: int) -> float:
    """Megabytes above the start, in a fresh process; Linux only."""
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, folder, way, str(rows)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def memory() -> list[dict[str, Any]]:
    title = "peak memory, a gate per weight, exact, Linear 784→300"
    found = [
        {
            "case": f"{title}, B 128, vmap over ours",
            "less": peak("vmap", 128) / peak("rows", 128),
            "target": 20,
        }
    ]
    found += [
        {"case": f"{title}, eager, B {rows}", "megabytes": peak("rows", rows)}
        for rows in (64, 512, 4096)
    ]
    found += [
        {"case": f"{title}, ungated, B {rows}", "megabytes": peak("ungated", rows)}
        for rows in (64, 512, 4096)
    ]
    return found


TABLES = {
    f.__name__: f for f in (structured, entries, distributions, local, steps, convolutions, memory)
}


def measured(table: str) -> list[dict[str, Any]]:
    """A table's rows, measured and printed in this process."""
    torch.manual_seed(0)
    rows = TABLES[table]()
    for row in rows:
        numbers = "  ".join(f"{k} {v:.2f}" for k, v in row.items() if k != "case")
        print(f"{row['case']:95}{numbers}", flush=True)
    return rows


def apart(table: str) -> list[dict[str, Any]]:
    """A table's rows from a fresh process: what one table leaves in memory slows the next."""
    done = subprocess.run(
        [sys.executable, __file__, table], stdout=subprocess.PIPE, text=True, check=True
    )
    *shown, last = done.stdout.splitlines()
    print(*shown, sep="\n", flush=True)
    return json.loads(last)["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "table", nargs="?", choices=TABLES, help="one table; all of them without it"
    )
    table = parser.parse_args().table
    rows = measured(table) if table else [row for name in TABLES for row in apart(name)]
    print(
        json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})
    )


if __name__ == "__main__":
    main()

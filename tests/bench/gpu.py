"""A GPU: first the contracts of kernels and calls, in four minutes, then the tables, in two.

    python tests/bench/gpu.py

Prints the tables and writes them as JSON, with the card's name. Without a GPU it says so and
exits with 1; ``--device cpu --quick`` tries this file's own code on a CPU, with small sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import command_line as cli
import torch
from torch import Tensor, nn

import l0func as l0
from l0func import random

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

Run = Callable[[], Any]
Row = dict[str, Any]


class Bench:
    """A device, the sizes to try, and the rows so far."""

    def __init__(self, device: str, quick: bool, seconds: float) -> None:
        self.device, self.quick, self.row_seconds = device, quick, seconds
        self.rows: list[Row] = []
        self.key = random.key(0).to(device)

    def settle(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Run) -> float:
        self.settle()
        start = time.perf_counter()
        run()
        self.settle()
        return time.perf_counter() - start

    def medians(self, contenders: dict[str, Run]) -> dict[str, float]:
        """Median seconds; the contenders take turns. One that runs out of memory is left out."""
        able: dict[str, Run] = {}
        for name, run in contenders.items():
            try:
                self.seconds(run)
                self.seconds(run)
                able[name] = run
            except torch.cuda.OutOfMemoryError:
                print(f"    {name} does not fit this device's memory")
                self.clear()
        times: dict[str, list[float]] = {name: [] for name in able}
        stop = time.perf_counter() + self.row_seconds
        while time.perf_counter() < stop or len(next(iter(times.values()))) < 5:
            for name, run in able.items():
                times[name].append(self.seconds(run))
        return {name: statistics.median(values) for name, values in times.items()}

    def with_graphs(self, contenders: dict[str, Run]) -> dict[str, Run]:
        """The contenders, and each once more as a recorded graph, where Python costs nothing."""
        found = dict(contenders)
        for name, run in contenders.items():
            if self.device == "cuda":
                found[f"{name} as a graph"] = _graph_of(run)
        return found

    def clear(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def peak(self, run: Run) -> int:
        """Bytes above the start; 0 where torch does not count them."""
        if self.device != "cuda":
            return 0
        self.settle()
        self.clear()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        self.settle()
        return torch.cuda.max_memory_allocated() - start

    def add(self, case: str, times: dict[str, float], **more: Any) -> None:
        row = {"case": case, "ms": {name: t * 1e3 for name, t in times.items()}, **more}
        self.rows.append(row)
        shown = "  ".join(f"{name} {t * 1e3:.3f} ms" for name, t in times.items())
        extra = "  ".join(f"{name} {value:.4g}" for name, value in more.items())
        print(f"  {case}: {shown}  {extra}", flush=True)


def _graph_of(run: Run) -> Run:
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def uniforms(bench: Bench) -> None:
    for n in (10**4, 10**5) if bench.quick else (10**6, 10**7, 10**8):
        times = bench.medians(
            {
                "l0func": lambda n=n: random.uniform(bench.key, n),
                "torch.rand": lambda n=n: torch.rand(n, device=bench.device),
            }
        )
        over = times["torch.rand"] / times["l0func"]
        bench.add(f"uniform {n:.0e}", times, times_torch_rand=over, per_s=n / times["l0func"])


def kernels(bench: Bench) -> None:
    """The kernels alone, in gates a second: 250 thousand million are the aim on an H100."""
    if bench.device != "cuda":
        return
    from gate_formulas import FORMULAS

    from l0func.kernels.by_triton import launches

    formula = FORMULAS["root"]
    for b, i, o in ((128, 784, 300), (32, 4096, 4096)):
        la, a = [torch.randn(o, i, device=bench.device) for _ in range(2)]
        x, g = torch.randn(b, i, device=bench.device), torch.randn(b, o, device=bench.device)
        keys = random.split(bench.key, b)
        lines = launches.Lines(*launches.prepared(formula, la), i, 0)
        shared = formula, lines, keys
        runs: dict[str, Run] = {
            "y": lambda s=shared, a=a, x=x: launches.forward_product(*s, a, x, 0),
            "x": lambda s=shared, a=a, g=g: launches.backward_product(*s, a, g, 0),
            "a": lambda s=shared, x=x, g=g: launches.outer_product(*s, x, g, {0, 1}),
        }
        # Twenty launches in a graph: a single one waits longer for Python than it runs.
        twenty = {
            name: _graph_of(lambda run=run: [run() for _ in range(20)])
            for name, run in runs.items()
        }
        times = {name: t / 20 for name, t in bench.medians(twenty).items()}
        speeds = {f"{name}_per_s": b * i * o / t for name, t in times.items()}
        bench.add(f"kernels {i}→{o}, B {b}", times, **speeds)


class Layer:
    """One linear layer: ungated, gated by l0func, and masked under vmap."""

    def __init__(self, bench: Bench, sizes: tuple[int, int, int], rule: Any) -> None:
        batch, inputs, outputs = sizes
        linear = nn.Linear(inputs, outputs, device=bench.device)
        self.linear = linear
        self.fn, params, self.buffers = l0.make_functional(linear)
        self.params = {path: p.detach().requires_grad_() for path, p in params.items()}
        self.spec = l0.gate_spec(params, {"weight": rule, "bias": None})
        gates = l0.init_gates(random.key(1), self.spec)
        self.gates = {n: la.to(bench.device).requires_grad_() for n, la in gates.items()}
        self.x = torch.randn(batch, inputs, device=bench.device, requires_grad=True)
        self.keys = random.split(bench.key, batch)

    def _back(self, y: Tensor) -> Any:
        inputs = [self.x, *self.linear.parameters(), *self.params.values(), *self.gates.values()]
        return torch.autograd.grad(y.square().sum(), inputs, allow_unused=True)

    def ungated(self) -> Any:
        return self._back(self.linear(self.x))

    def gated(self, sampling: Any = "exact") -> Any:
        rows = l0.per_example(l0.gated(self.fn, self.spec, sampling=sampling))
        return self._back(rows(self.params, self.gates, self.buffers, self.keys, self.x))

    def by_vmap(self) -> Any:
        [la] = self.gates.values()
        weight, bias = self.params["weight"], self.params["bias"]

        def row(x: Tensor, u: Tensor) -> Tensor:
            s = torch.sigmoid((torch.logit(u) + la) / (2 / 3))
            return (weight * (s * 1.2 - 0.1).clamp(0, 1)) @ x + bias

        noise = torch.rand(self.x.shape[0], *la.shape, device=la.device)
        return self._back(torch.vmap(row)(self.x, noise))


def exact(bench: Bench) -> None:
    sizes = ((8, 28, 12), (2, 32, 32)) if bench.quick else ((128, 784, 300), (32, 4096, 4096))
    for b, i, o in sizes:
        layer = Layer(bench, (b, i, o), l0.element())
        runs = {"ungated": layer.ungated, "l0func": layer.gated}
        times = bench.medians({**bench.with_graphs(runs), "vmap": layer.by_vmap})
        fastest = times.get("l0func as a graph", times["l0func"])
        more: Row = {"gates_per_s": 3 * b * i * o / fastest}
        if "vmap" in times:
            more["times_faster_than_vmap"] = times["vmap"] / times["l0func"]
            own, theirs = bench.peak(layer.gated), bench.peak(layer.by_vmap)
            more |= {"bytes": own, "bytes_of_vmap": theirs}
            if own:
                more["times_less_memory"] = theirs / own
        bench.add(f"exact {i}→{o}, B {b}", times, **more)


def rows_and_sums(bench: Bench) -> None:
    b, i, o = (8, 32, 32) if bench.quick else (256, 1024, 1024)
    for name, rule, sampling in (
        ("local reparameterisation", l0.element(), "local_reparam"),
        ("rows", l0.axis(0), "exact"),
        ("columns", l0.axis(1), "exact"),
    ):
        layer = Layer(bench, (b, i, o), rule)
        gated = partial(layer.gated, sampling)
        times = bench.medians(bench.with_graphs({"ungated": layer.ungated, "l0func": gated}))
        more: Row = {"ratio": times["l0func"] / times["ungated"]}
        if "l0func as a graph" in times:
            more["ratio_as_a_graph"] = times["l0func as a graph"] / times["ungated as a graph"]
        bench.add(f"{name} {i}→{o}, B {b}", times, **more)


TABLES = [uniforms, kernels, exact, rows_and_sums]


def checks(device: str) -> dict[str, str]:
    """Run the contract lists, each in a process of its own; what failed is printed."""
    scripts = {"public calls": ["entry_points.py", "cuda" if device == "cuda" else "cpu"]}
    if device == "cuda":
        scripts["kernels"] = ["triton_contracts.py", "--device", "cuda"]
    found: dict[str, str] = {}
    for name, command in scripts.items():
        whole = [sys.executable, str(TESTS / command[0]), *command[1:]]
        done = subprocess.run(whole, capture_output=True, text=True, cwd=TESTS.parent)
        found[name] = "passed" if done.returncode == 0 else done.stderr[-2000:]
        print(f"{name}: {found[name]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--seconds", type=cli.positive, default=4.0, help="for a row, warm-up aside"
    )
    parser.add_argument("--without-checks", action="store_true", help="tables alone")
    parser.add_argument("--json", type=cli.file, default=None)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use: nothing was measured.")
        return 1
    card = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    bench = Bench(given.device, given.quick, 0.2 if given.quick else given.seconds)
    kernel = l0.kernel_in_use(given.device)
    print(f"{card}, torch {torch.__version__}, kernel {kernel}")
    report: Row = {"card": card, "torch": torch.__version__, "kernel": kernel}
    report["checks"] = {} if given.without_checks else checks(given.device)
    for table in TABLES:
        print(table.__name__.replace("_", " "))
        try:
            table(bench)
        # A table that breaks must not cost the others: a card is there for minutes.
        except Exception as error:
            report.setdefault("errors", {})[table.__name__] = repr(error)
            print(f"  broke: {error!r}")
    report["rows"] = bench.rows
    name = card.replace(" ", "_").lower()
    path = given.json or TESTS / "bench" / f"gpu_{name}.json"
    # A quick run leaves the record of a full one alone.
    if given.json or (given.device == "cuda" and not given.quick):
        path.write_text(json.dumps(report, indent=1) + "\n")
    failed = any(result != "passed" for result in report["checks"].values())
    return 1 if failed or "errors" in report else 0


if __name__ == "__main__":
    sys.exit(main())

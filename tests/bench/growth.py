"""How time and memory grow with the work: batch, width, number of gated parameters, threads.

    python tests/bench/growth.py [--picture tests/bench/growth.png]

Every point is a fresh process: the median time of a step, forward and backward with all draws, and
the peak memory above the start (Linux only). All axes but that of threads take one thread. Prints
a table and, as the last line, the same as JSON; draws the picture."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import command_line as cli
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import l0func as l0
from l0func import random

Step = Callable[[], Any]
ENTRIES = {"*weight": l0.element(), "*": None}
ROWS = {"*weight": l0.axis(0), "*": None}
ROADS = ("exact", "local", "rows", "one mask", "ungated")
AXES: dict[str, tuple[int, ...]] = {
    "batch": (64, 256, 1024, 4096),
    "width": (256, 512, 1024, 2048, 4096),
    "parameters": (10, 100, 1000, 4000),
    "threads": (1, 2),
}
# What the other axes hold.
BATCH, SHAPE, NARROW = 128, (784, 300), 8


def step_of(road: str, module: nn.Module, x: Tensor) -> Step:
    """One step on a road: forward, backward, and every draw."""
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, ROWS if road == "rows" else ENTRIES)
    gates = l0.init_gates(random.key(0), spec)
    leaves = [t.requires_grad_() for t in (*params.values(), *gates.values())]
    sampling = "local_reparam" if road == "local" else "exact"
    apply = l0.gated(fn, spec, sampling=sampling)
    rows, key = l0.per_example(apply), random.key(1)

    def run() -> None:
        if road == "ungated":
            y = fn(params, buffers, x)
        elif road == "one mask":
            y = apply(params, gates, buffers, key, x)
        else:
            y = rows(params, gates, buffers, random.split(key, len(x)), x)
        y.sum().backward()
        for leaf in leaves:
            leaf.grad = None

    return run


def case(axis: str, size: int, road: str) -> tuple[nn.Module, Tensor]:
    """The module and the batch of one point."""
    torch.manual_seed(0)
    if axis == "width":
        return nn.Linear(size, size), torch.randn(16, size)
    if axis == "parameters":
        layers = [nn.Linear(NARROW, NARROW) for _ in range(size)]
        return nn.Sequential(*layers), torch.randn(16, NARROW)
    batch = size if axis == "batch" else BATCH
    return nn.Linear(*SHAPE), torch.randn(batch, SHAPE[0])


def gates_drawn(axis: str, size: int, road: str) -> int:
    """Gates that a step draws in one pass."""
    module, x = case(axis, size, road)
    weights = [p for p in module.parameters() if p.dim() == 2]
    if road == "rows":
        return len(x) * sum(len(w) for w in weights)
    masks = len(x) if road == "exact" else 1
    return masks * sum(w.numel() for w in weights)


def megabytes(field: str) -> float:
    """A line of this process's memory."""
    status = Path("/proc/self/status").read_text()
    found = re.search(field + r":\s+(\d+)", status)
    assert found is not None
    return int(found.group(1)) / 1024


def measure(axis: str, size: int, road: str) -> dict[str, float]:
    """Seconds of a step and its peak memory, in this process."""
    # Threads begin to help at two million draws, and a line across that point is not straight: all
    # axes but their own take one thread, and count its time alone.
    torch.set_num_threads(size if axis == "threads" else 1)
    clock = time.perf_counter if axis == "threads" else time.process_time
    # Kernels are compiled and loaded first, on a network of another size.
    step_of(road, nn.Linear(5, 3), torch.randn(2, 5))()
    run = step_of(road, *case(axis, size, road))
    Path("/proc/self/clear_refs").write_text("5")
    before = megabytes("VmRSS")
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1.0 and len(times) < 50):
        start = clock()
        run()
        times.append(clock() - start)
    return {"seconds": statistics.median(times), "megabytes": megabytes("VmHWM") - before}


def apart(axis: str, size: int, road: str) -> dict[str, Any]:
    """One point, from a fresh process."""
    command = [sys.executable, __file__, "--point", axis, str(size), road]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    drawn = 0 if road == "ungated" else gates_drawn(axis, size, road)
    return {"axis": axis, "size": size, "road": road, "gates": drawn, **found}


def bend(points: list[dict[str, Any]]) -> float | None:
    """The farthest distance from a straight line in the gates drawn, from a million on.

    The line goes through the origin and the last point; 1 means that all points are on it.
    """
    large = [p for p in points if p["gates"] >= 10**6]
    if len(large) < 2:
        return None
    slope = large[-1]["seconds"] / large[-1]["gates"]
    ratios = [p["seconds"] / (slope * p["gates"]) for p in large]
    return max(max(ratios), 1 / min(ratios))


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Time above memory, for each axis; a line for each road."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    labels = {"batch": "batch size", "width": "width of the layer", "parameters": "gated tensors"}
    for column, (axis, label) in enumerate(labels.items()):
        for road in ROADS:
            own = [p for p in points if p["axis"] == axis and p["road"] == road]
            sizes = [p["size"] for p in own]
            style = "k--" if road == "ungated" else "o-"
            axes[0, column].loglog(sizes, [1e3 * p["seconds"] for p in own], style, label=road)
            used = [max(p["megabytes"], 0.1) for p in own]
            axes[1, column].loglog(sizes, used, style, label=road)
        axes[1, column].set_xlabel(label)
        for panel in axes[:, column]:
            panel.set_xticks(AXES[axis], AXES[axis])
            panel.minorticks_off()
    axes[0, 0].set_ylabel("a step (ms)")
    axes[1, 0].set_ylabel("peak memory above the start (MB)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle("Forward and backward, draws included, against the size of the work")
    figure.savefig(path, dpi=120)


def report(points: list[dict[str, Any]]) -> None:
    """The table."""
    for axis in AXES:
        for road in ROADS:
            own = [p for p in points if p["axis"] == axis and p["road"] == road]
            times = "  ".join(f"{p['size']}: {1e3 * p['seconds']:.3g}" for p in own)
            memory = "  ".join(f"{p['megabytes']:.0f}" for p in own)
            farthest = bend(own)
            line = "" if farthest is None else f"   from a straight line {farthest:.2f}×"
            print(f"{axis:11}{road:9} ms {times}   MB {memory}{line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=cli.picture, default="growth_picture.png")
    parser.add_argument("--point", nargs=3, help="one point, measured in this process")
    options = parser.parse_args()
    if options.point:
        axis, size, road = options.point
        print(json.dumps(measure(axis, int(size), road)))
        return
    wanted = [(axis, size, road) for axis in AXES for size in AXES[axis] for road in ROADS]
    points = [apart(*each) for each in tqdm(wanted, unit="point")]
    report(points)
    draw(points, options.picture)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({**about, "points": points}))


if __name__ == "__main__":
    main()

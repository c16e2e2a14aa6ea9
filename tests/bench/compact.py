"""What removal buys: LeNet-5-Caffe from 20-50-800-500 to 9-18-65-25, a compaction of 25 million
weights, and sparse rows.

    python tests/bench/compact.py

Contenders take turns in one run; medians. The last line is JSON.
"""

from __future__ import annotations

import io
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

# The paper's 65 are single inputs of fc1, which no smaller layer before it has: 18 channels keep
# all their 288.
KEPT = {"conv1": 9, "conv2": 18, "fc1": 25}


class LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def medians(contenders: list[Callable[[], Any]], repeats: int) -> list[float]:
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        for own, contender in zip(times, contenders, strict=True):
            start = time.perf_counter()
            contender()
            own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[repeats // 10 :]) for own in times]


def size_on_disk(module: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.tell()


def lenet() -> dict[str, float]:
    torch.manual_seed(0)
    module = LeNet5()
    fn, params, buffers = l0.make_functional(module)
    x = torch.randn(128, 1, 28, 28)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x[:2]), buffers=buffers)
    gates = {
        g.name: torch.where(torch.arange(g.shape[0]) < KEPT[g.name], 5.0, -20.0)
        for g in spec.gates
    }
    small = l0.to_module(*l0.compact(fn, params, gates, buffers, spec))
    parameters = [sum(p.numel() for p in m.parameters()) for m in (module, small)]
    macs = [l0.count_macs(*l0.make_functional(m), x[:1]).total for m in (module, small)]
    row: dict[str, float] = {
        "parameters": parameters[0] / parameters[1],
        "macs": macs[0] / macs[1],
    }
    row["bytes"] = size_on_disk(module) / size_on_disk(small)
    with torch.inference_mode():
        for batch in (1, 128):
            before, after = medians(
                [lambda b=batch: module(x[:b]), lambda b=batch: small(x[:b])], 200
            )
            row[f"speed at {batch}"] = before / after
    print(f"LeNet-5-Caffe, {parameters[0]:,} to {parameters[1]:,} parameters")
    for name, ratio in row.items():
        print(f"  {name:14}{ratio:8.2f}×")
    return row


def seconds_of_compaction() -> float:
    layers = [layer for _ in range(6) for layer in (nn.Linear(2048, 2048), nn.ReLU())]
    fn, params, buffers = l0.make_functional(nn.Sequential(*layers, nn.Linear(2048, 10)))
    groups = {
        f"h{i}": l0.group(
            {f"{2 * i + 2}.weight": l0.axis(1)},
            {f"{2 * i}.{n}": l0.axis(0) for n in ("weight", "bias")},
        )
        for i in range(6)
    }
    spec = l0.gate_spec(params, groups=groups)
    gates = {g.name: 8 * l0.random.uniform(l0.random.key(0), g.shape) - 6 for g in spec.gates}
    (taken,) = medians([lambda: l0.compact(fn, params, gates, buffers, spec)], 10)
    print(
        f"compact, {sum(p.numel() for p in params.values()) / 1e6:.1f} M parameters: "
        f"{taken / 1000:.2f} s"
    )
    return taken / 1000


def _products(x: Tensor, dense: Tensor, rows: Tensor) -> list[float]:
    return medians(
        [lambda: F.linear(x, dense), lambda: F.linear(x, rows), lambda: (rows @ x.T).T], 30
    )


def sparse() -> list[dict[str, float]]:
    warnings.filterwarnings("ignore", message="Sparse CSR")
    rows: list[dict[str, float]] = []
    print(
        "Linear with sparse rows, dense time over sparse (F.linear as a module calls it; the "
        "weight times x transposed)"
    )
    for size in (1024, 4096):
        for density in (0.5, 0.1, 0.05, 0.01):
            u, w = (
                l0.random.uniform(k, (size, size)) for k in l0.random.split(l0.random.key(1), 2)
            )
            dense: Tensor = (w - 0.5) * (u < density)
            rows_of = l0.to_sparse_csr({"w": dense}, max_density=1.0)["w"]
            for batch in (1, 128):
                x = torch.randn(batch, size)
                plain, linear, product = _products(x, dense, rows_of)
                row = {
                    "size": size,
                    "density": density,
                    "batch": batch,
                    "linear": plain / linear,
                    "product": plain / product,
                }
                rows.append(row)
                print(
                    f"  {size}² at {density:4.0%}, batch {batch:3}: {plain / linear:6.2f}× "
                    f"{plain / product:6.2f}×"
                )
    return rows


def main() -> None:
    result = {"lenet": lenet(), "compact_seconds": seconds_of_compaction(), "sparse": sparse()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

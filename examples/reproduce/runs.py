"""What the two reproductions share: seeds trained as one vmapped run, last-epoch numbers, JSON.

A run goes on where it was stopped: its state is on disk after every epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mnist import mnist
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

ESTIMATORS = ("louizos", "median", "count")
HERE = Path(__file__).parent


class Layer(NamedTuple):
    """A gate vector of the paper: its group, the likelihood 1/2 is crossed with at first, and the
    weights that it pays for.
    """

    group: Any
    droprate: float
    weights: int


class Network(NamedTuple):
    name: str
    module: Callable[[], nn.Module]
    layers: dict[str, Layer]
    shape: tuple[int, ...]
    chunk_size: int | None = None
    """Seeds at once; one where there are convolutions, which a CPU does slower for several."""


@dataclass(frozen=True)
class Row:
    """One row of a table: the paper's λ for every gate vector, or a density to reach."""

    name: str
    lams: tuple[float, ...] = ()
    target: float | None = None
    lr: float = 1e-3
    gates_lr: float = 1e-3
    weight_decay: float = 0.0
    anneal: bool = False
    epochs: int = 200
    seeds: int = 5
    batch: int = 100
    average: float = 0.999
    warmup: int = 0
    dual_lr: float = 1e-3
    damping: float = 0.03


class Run:
    """A row on a network: its plan, its training, its data."""

    def __init__(self, network: Network, row: Row, data: Sequence[Tensor]) -> None:
        self.network, self.row, self.data = network, row, data
        self.steps = len(data[0]) // row.batch
        self.fn, params, buffers = self.fresh(0)
        self.spec = l0.gate_spec(
            params, groups={name: layer.group for name, layer in network.layers.items()}
        )
        self.rows = l0.per_example(l0.gated(self.fn, self.spec))
        self.counts = l0.count_macs(self.fn, params, buffers, data[0][:1])
        self.control = None
        if row.target is not None:
            rates = {"lr": row.dual_lr, "damping": row.damping, "warmup": row.warmup}
            self.control = l0.lagrangian(self.spec, {"*.weight": row.target}, **rates)
        rates = [row.lr, row.gates_lr]
        if row.anneal:
            # The last half falls to nothing, so that the last epoch is as good as any.
            half = row.epochs * self.steps // 2
            rates = [l0.schedules.cosine(rate, rate / 100, half, begin=half) for rate in rates]
        of_params = l0.optimizer(
            torch.optim.Adam, lr=rates[0], weight_decay=row.weight_decay, fused=True
        )
        of_gates = l0.optimizer(torch.optim.Adam, lr=rates[1], fused=True)
        options = {"control": self.control, "average": row.average, "donate": True}
        self.single = l0.training(self.loss, of_params, of_gates, **options)
        mapped = {"in_dims": (0, 0), "chunk_size": network.chunk_size, "compile": True}
        self.sweep = l0.training(self.loss, of_params, of_gates, **options, **mapped)

    def fresh(self, seed: int) -> tuple[Any, Any, Any]:
        torch.manual_seed(seed)
        return l0.make_functional(self.network.module())

    def loss(
        self, params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        output = self.rows(params, gates, buffers, l0.random.split(key, self.row.batch), x)
        value = F.cross_entropy(output, y)
        pairs = zip(self.spec.gates, self.network.layers.values(), self.row.lams, strict=False)
        for gate, layer, lam in pairs:
            price = lam / len(self.data[0]) * layer.weights
            value = value + price * gate.distribution.prob_nonzero(gates[gate.name]).sum()
        return value

    def start(self) -> l0.TrainState:
        droprates = {name: layer.droprate for name, layer in self.network.layers.items()}
        members = []
        for seed in range(self.row.seeds):
            init_key, train_key = l0.random.split(l0.random.key(seed), 2)
            _, params, buffers = self.fresh(seed)
            gates = l0.init_gates(init_key, self.spec, droprates, meaning="below_half")
            members.append(self.single.init(train_key, params, gates, buffers))
        return l0.stack(members)

    def epoch(self, states: l0.TrainState, number: int) -> tuple[l0.TrainState, Tensor]:
        x, y = self.data[:2]
        keys = torch.stack(
            [
                l0.random.fold_in(l0.random.key(1000 + seed), number)
                for seed in range(self.row.seeds)
            ]
        )
        orders = torch.stack([l0.random.uniform(key, len(x)).argsort() for key in keys])
        total = torch.zeros(self.row.seeds)
        for index in orders[:, : self.steps * self.row.batch].split(self.row.batch, dim=1):
            states, loss = self.sweep.step(states, x[index], y[index])
            total += loss
        return states, total / self.steps

    def trained(self, folder: Path) -> tuple[l0.TrainState, float]:
        """The states after the last epoch, and the seconds of training; goes on from what is in
        the folder.
        """
        file, log = folder / "state.safetensors", folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        states, settings = (
            self.start(),
            json.loads(json.dumps(asdict(self.row) | {"network": self.network.name})),
        )
        lines = []
        if file.exists():
            states = l0.load_state(file, states, self.spec, settings)
            lines = log.read_text().splitlines()[: int(states.step) // self.steps]
        seconds = sum(json.loads(line)["seconds"] for line in lines)
        first = int(states.step) // self.steps
        bar = tqdm(
            range(first, self.row.epochs),
            desc=self.row.name,
            initial=first,
            total=self.row.epochs,
            unit="epoch",
        )
        for number in bar:
            begin = time.perf_counter()
            states, loss = self.epoch(states, number)
            own = time.perf_counter() - begin
            if bad := l0.diverged(states):
                print(f"seeds {bad} hold a NaN from epoch {number} on; the others go on")
            seconds += own
            record = {"epoch": number, "loss": loss.tolist(), "seconds": own} | self.glance(states)
            lines.append(json.dumps(record))
            log.write_text("\n".join(lines) + "\n")
            l0.save_state(file, states, self.spec, settings)
            bar.set_postfix(
                error=f"{_mean(record['error']):.2%}", density=f"{_mean(record['realised']):.2%}"
            )
        return states, seconds

    def glance(self, states: l0.TrainState) -> dict[str, list[float]]:
        found = [self.measured(member, "louizos") for member in l0.unstack(states)]
        return {name: [of[name] for of in found] for name in ("error", "expected", "realised")}

    @torch.no_grad()
    def measured(self, state: l0.TrainState, estimator: Any) -> dict[str, Any]:
        """Numbers of one seed, of its averages if there are some."""
        kept = state.averages or {"params": state.params, "gates": state.gates}
        params, gates = kept["params"], kept["gates"]
        pruned = l0.prune(params, gates, self.spec, estimator)
        outputs = torch.cat(
            [self.fn(pruned, state.buffers, part) for part in self.data[2].split(2000)]
        )
        weights = [
            row
            for row in l0.summary(params, gates, self.spec, estimator).rows
            if row.name.endswith(".weight")
        ]
        entries = sum(row.entries for row in weights)
        return {
            "error": (outputs.argmax(1) != self.data[3]).float().mean().item(),
            "expected": sum(row.expected_open for row in weights) / entries,
            "realised": sum(row.realised_open for row in weights) / entries,
            "macs": l0.realised_macs(gates, self.spec, self.counts, estimator),
            "widths": [int(n) for n in self.widths(gates, estimator)],
        }

    def widths(self, gates: Any, estimator: Any) -> list[int]:
        z = l0.gates.deterministic_gates(gates, self.spec, estimator)
        return [int((z[gate.name] != 0).sum()) for gate in self.spec.gates]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; 0 for one value."""
    from scipy.stats import t

    n, mean = len(values), _mean(values)
    if n < 2:
        return mean, 0.0
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def result(run: Run, states: l0.TrainState, seconds: float) -> dict[str, Any]:
    of_estimator = {
        name: [run.measured(member, name) for member in l0.unstack(states)] for name in ESTIMATORS
    }
    return {
        "row": asdict(run.row),
        "network": run.network.name,
        "dense_macs": run.counts.total,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seeds": of_estimator,
    }


def spread(values: Sequence[float]) -> str:
    """A share in per cent, with its interval where there are several seeds."""
    mean, half = interval(values)
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if len(values) > 1 else f"{100 * mean:.2f} %"


def line(record: dict[str, Any], estimator: str) -> str:
    """A row of the tables in README.md: units, weights, expected weights, error, multiply-adds."""
    seeds = record["seeds"][estimator]
    widths = "-".join(
        str(round(_mean(of))) for of in zip(*(seed["widths"] for seed in seeds), strict=True)
    )
    realised, expected, error, macs = (
        [of[key] for of in seeds] for key in ("realised", "expected", "error", "macs")
    )
    return f"{widths} | {spread(realised)} | {100 * _mean(expected):.2f} % | {spread(error)} | {_mean(macs):,.0f}"


def show(record: dict[str, Any]) -> str:
    row = record["row"]
    head = f"{record['network']}, {row['name']}: {row['epochs']} epochs, {row['seeds']} seeds, {record['seconds'] / 60:.0f} min"
    return "\n".join([head, *(f"  {name:8} {line(record, name)}" for name in record["seeds"])])


def main(network: Network, rows: Sequence[Row], claims: dict[str, tuple[float, float]]) -> None:
    """Train the rows that were asked for, write their JSON, and assert what is claimed of them."""
    parser = argparse.ArgumentParser(description=f"{network.name} on MNIST, behind gates")
    parser.add_argument("--data", help="mnist.npz, or a folder with the idx files")
    parser.add_argument(
        "--row",
        action="append",
        choices=[row.name for row in rows],
        help="which rows; all without it",
    )
    parser.add_argument("--epochs", type=int, help="fewer or more than the row says")
    parser.add_argument("--seeds", type=int)
    parser.add_argument(
        "--folder", type=Path, default=HERE / "runs", help="where states and logs go"
    )
    options = parser.parse_args()
    x, y, x_test, y_test = mnist(options.data)
    data = (x.reshape(-1, *network.shape), y, x_test.reshape(-1, *network.shape), y_test)
    for row in rows:
        if options.row and row.name not in options.row:
            continue
        changed = {"epochs": options.epochs or row.epochs, "seeds": options.seeds or row.seeds}
        run = Run(network, Row(**(asdict(row) | changed)), data)
        folder = options.folder / network.name / row.name
        record = result(run, *run.trained(folder))
        (folder / "result.json").write_text(json.dumps(record, indent=1) + "\n")
        print(show(record))
        if row.name in claims and run.row == row:
            seeds = record["seeds"]["louizos"]
            density, error = claims[row.name]
            assert _mean([of["realised"] for of in seeds]) <= density, (
                f"{row.name}: at most {density:.2%} of the weights"
            )
            assert _mean([of["error"] for of in seeds]) <= error, (
                f"{row.name}: an error of at most {error:.2%}"
            )

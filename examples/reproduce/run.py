"""One row of a reproduction: its seeds are one vmapped run, which can be stopped and resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from records import mean_of
from rows import Network, Row
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0
from l0func.gates.masks import deterministic_gates


class Run:
    """A row on a network: its spec, its training, its data."""

    def __init__(self, network: Network, row: Row, data: Sequence[Tensor]) -> None:
        self.network, self.row, self.data = network, row, data
        self.steps = len(data[0]) // row.batch
        self.fn, params, buffers = self.fresh(0)
        groups = {name: layer.group for name, layer in network.layers.items()}
        self.spec = l0.gate_spec(params, groups=groups)
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
        decay = {"weight_decay": row.weight_decay}
        adams = [
            l0.optimizer(torch.optim.Adam, lr=rates[0], fused=True, **decay),
            l0.optimizer(torch.optim.Adam, lr=rates[1], fused=True),
        ]
        options = {"control": self.control, "average": row.average, "donate": True}
        self.single = l0.training(self.loss, *adams, **options)
        mapped = {"in_dims": (0, 0), "chunk_size": network.chunk_size, "compile": True}
        self.sweep = l0.training(self.loss, *adams, **options, **mapped)

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
        orders = []
        for seed in range(self.row.seeds):
            key = l0.random.fold_in(l0.random.key(1000 + seed), number)
            orders.append(l0.random.uniform(key, len(x)).argsort())
        order = torch.stack(orders)[:, : self.steps * self.row.batch]
        total = torch.zeros(self.row.seeds)
        for index in order.split(self.row.batch, dim=1):
            states, loss = self.sweep.step(states, x[index], y[index])
            total += loss
        return states, total / self.steps

    def trained(self, folder: Path) -> tuple[l0.TrainState, float]:
        """The states after the last epoch, and the seconds of training.

        A run that the folder holds is continued.
        """
        file, log = folder / "state.safetensors", folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        states = self.start()
        settings = json.loads(json.dumps(asdict(self.row) | {"network": self.network.name}))
        lines = []
        if file.exists():
            states = l0.load_state(file, states, self.spec, settings)
            lines = log.read_text().splitlines()[: int(states.step) // self.steps]
        seconds = sum(json.loads(line)["seconds"] for line in lines)
        first = int(states.step) // self.steps
        epochs = range(first, self.row.epochs)
        bar = tqdm(epochs, self.row.name, self.row.epochs, initial=first, unit="epoch")
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
            error, density = mean_of(record["error"]), mean_of(record["realised"])
            bar.set_postfix(error=f"{error:.2%}", density=f"{density:.2%}")
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
        batches = self.data[2].split(2000)
        outputs = torch.cat([self.fn(pruned, state.buffers, x) for x in batches])
        table = l0.summary(params, gates, self.spec, estimator)
        weights = [row for row in table.rows if row.name.endswith(".weight")]
        entries = sum(row.entries for row in weights)
        return {
            "error": (outputs.argmax(1) != self.data[3]).float().mean().item(),
            "expected": sum(row.expected_open for row in weights) / entries,
            "realised": sum(row.realised_open for row in weights) / entries,
            "macs": l0.realised_macs(gates, self.spec, self.counts, estimator),
            "widths": [int(n) for n in self.widths(gates, estimator)],
        }

    def widths(self, gates: Any, estimator: Any) -> list[int]:
        z = deterministic_gates(gates, self.spec, estimator)
        return [int((z[gate.name] != 0).sum()) for gate in self.spec.gates]

"""How much smaller and faster does a small ResNet get when its channels are gated, and what does
it cost?

A ResNet learns to read handwritten digits; then every channel gets a gate, expected multiply-adds
are the penalty, and what closes is cut out of the network. Three penalties, a few minutes on two
cores; the table is about the middle one.

    python examples/compact_cnn.py [--picture compact_cnn.png] [--epochs 60]
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

Tensors = dict[str, Tensor]

BATCH = 64


class Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        project = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity() if into == out else project

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(width: int = 48) -> nn.Module:
    stem = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
    blocks = [
        Block(width, width, 1),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 2 * width, 1),
    ]
    return nn.Sequential(
        stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)
    )


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(3), len(x)).argsort()
    x, y = x[order].float().reshape(-1, 1, 8, 8) / 8 - 1, y[order]
    return x[:1297], y[:1297], x[1297:], y[1297:]


def shifted(x: Tensor, key: Tensor) -> Tensor:
    """Each image moved by up to one pixel: 1297 digits are few."""
    at = (l0.random.uniform(key, (2, len(x))) * 3).long()
    index = torch.arange(8)
    rows, columns = (at[0, :, None] + index), (at[1, :, None] + index)
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0)
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][
        :, None
    ]


def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((module.eval()(x).argmax(1) == y).float().mean()) * 100


def train(
    fn: Callable,
    spec: l0.GateSpec,
    start: tuple,
    counts: l0.MacCounts,
    data: tuple,
    epochs: int,
    lam: float,
    title: str,
) -> tuple[l0.TrainState, list[Tensors]]:
    """The state after Adam on the weights and, faster, on the gates; and the gates after each
    epoch.
    """
    x, y = data
    steps = len(x) // BATCH
    apply = l0.gated(fn, spec)

    def loss(
        params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensors]:
        mask_key, shift_key = l0.random.split(key, 2)
        logits, buffers = apply.with_buffers(
            params, gates, buffers, mask_key, shifted(x, shift_key)
        )
        cost = lam * l0.expected_macs(gates, spec, counts) / counts.total
        return F.cross_entropy(logits, y) + cost, buffers

    rates = [l0.schedules.cosine(rate, 1e-4, epochs * steps) for rate in (2e-3, 0.1)]
    init, step = l0.training(
        loss, *(l0.optimizer(torch.optim.Adam, lr=rate) for rate in rates), donate=True
    )
    order_key, draw_key = l0.random.split(l0.random.key(7), 2)
    state, history = init(draw_key, *start), []
    for epoch in tqdm(range(epochs), desc=title, unit="epoch"):
        order = l0.random.uniform(l0.random.fold_in(order_key, epoch), len(x)).argsort()
        for batch in order[: steps * BATCH].split(BATCH):
            state, _ = step(state, x[batch], y[batch])
        # Copies, for the next step writes into these.
        history.append({name: gate.clone() for name, gate in state.gates.items()})
    return state, history


def milliseconds(modules: list[nn.Module], x: Tensor) -> list[float]:
    """Medians of calls that take turns."""
    times: list[list[float]] = [[] for _ in modules]
    with torch.inference_mode():
        for _ in range(80):
            for own, module in zip(times, modules, strict=True):
                start = time.perf_counter()
                module(x)
                own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[10:]) for own in times]


def bytes_on_disk(module: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.tell()


def table(modules: list[nn.Module], x: Tensor, y: Tensor) -> dict[str, list[float]]:
    pure = [l0.make_functional(module) for module in modules]
    rows = {
        "parameters": [sum(p.numel() for p in module.parameters()) for module in modules],
        "multiply-adds, one image": [l0.count_macs(*of, x[:1]).total for of in pure],
        "bytes on disk": [bytes_on_disk(module) for module in modules],
        "ms, batch of 1": milliseconds(modules, x[:1]),
        "ms, batch of 128": milliseconds(modules, x[:128]),
        "accuracy, %": [accuracy(module, x, y) for module in modules],
    }
    print(f"{'':26}{'before':>12}{'after':>12}{'ratio':>9}")
    for name, (before, after) in rows.items():
        digits = 0 if isinstance(before, int) else 2
        print(f"{name:26}{before:12,.{digits}f}{after:12,.{digits}f}{before / after:8.2f}×")
    return rows


def draw(picture: str, spec: l0.GateSpec, run: tuple, points: list[tuple[float, float]]) -> None:
    state, history, small = run
    params, gates = state.params, state.gates
    figure = Figure(figsize=(14, 8.4), layout="constrained")
    axes = figure.subplots(2, 3)
    convs = [name for name, p in params.items() if p.dim() == 4]
    l0.plot.widths(
        {name: len(params[name]) for name in convs},
        {n: len(small.get_parameter(n)) for n in convs},
        axes[0, 0],
    )
    l0.plot.density(l0.summary(params, gates, spec), axes[0, 1], names=convs)
    l0.plot.filters(l0.prune(params, gates, spec)["0.0.weight"], axes[0, 2])
    opens = [
        torch.cat([g.distribution.prob_nonzero(at[g.name]) for g in spec.gates]) for at in history
    ]
    l0.plot.trajectories(range(1, len(opens) + 1), opens, axes[1, 0]).set_xlabel("epoch")
    l0.plot.open_probability(gates, spec, axes[1, 1])
    l0.plot.tradeoff({"penalties, and without": points}, axes[1, 2])
    figure.savefig(picture, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", default="compact_cnn.png")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--lam",
        type=float,
        nargs=3,
        default=[0.5, 3.0, 8.0],
        help="cost of all multiply-adds of an image",
    )
    chosen = parser.parse_args()
    x, y, x_test, y_test = digits()
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(resnet().train())
    counts = l0.count_macs(fn.eval(), params, buffers, x[:1])
    ungated = l0.gate_spec(params, {})
    state, _ = train(
        fn, ungated, (params, {}, buffers), counts, (x, y), chosen.epochs, 0.0, "dense"
    )
    params, buffers = state.params, state.buffers
    dense = l0.to_module(fn.eval(), params, buffers)

    spec = l0.gate_spec(params, groups=l0.unit_groups(dense, x[:2]), buffers=buffers)
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.2)
    start = l0.compensate(params, gates, spec), gates, buffers
    runs, points = [], [(1.0, accuracy(dense, x_test, y_test))]
    for lam in chosen.lam:
        state, history = train(fn, spec, start, counts, (x, y), chosen.epochs, lam, f"lam {lam:g}")
        small = l0.to_module(
            *l0.compact(fn.eval(), state.params, state.gates, state.buffers, spec)
        )
        kept = sum(p.numel() for p in small.parameters()) / sum(
            p.numel() for p in dense.parameters()
        )
        points.append((kept, accuracy(small, x_test, y_test)))
        runs.append((state, history, small))
    rows = table([dense.eval(), runs[1][-1]], x_test, y_test)
    draw(chosen.picture, spec, runs[1], points)
    print(f"\n{chosen.picture} shows what is left.")
    ratios = {name: before / after for name, (before, after) in rows.items()}
    assert ratios["multiply-adds, one image"] >= 2, ratios
    assert ratios["ms, batch of 128"] >= 1.5, ratios
    assert rows["accuracy, %"][1] >= rows["accuracy, %"][0] - 1, rows


if __name__ == "__main__":
    main()

"""How much smaller and faster does a small ResNet get when its channels are gated, and what does it cost?

A ResNet learns to read handwritten digits; then every channel gets a gate, expected multiply-adds are the penalty, and what
closes is cut out of the network. Three penalties, a few minutes on two cores; the table is about the middle one.

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
    stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks = [Block(width, width, 1), Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


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
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((module.eval()(x).argmax(1) == y).float().mean()) * 100


def train(
    apply: Callable, params: Tensors, gates: Tensors, buffers: Tensors, data: tuple, epochs: int, cost: Callable, title: str
) -> tuple[Tensors, Tensors, Tensors, list[Tensors]]:
    """``params, gates, buffers, history`` after Adam on the weights and, faster, on the gates."""
    params, gates = ({name: t.clone().requires_grad_() for name, t in tree.items()} for tree in (params, gates))
    rates = [{"params": list(params.values()), "lr": 2e-3}, {"params": list(gates.values()), "lr": 0.1}]
    adam = torch.optim.Adam([group for group in rates if group["params"]])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs, eta_min=1e-4)
    x, y = data
    history = []
    for epoch in tqdm(range(epochs), desc=title, unit="epoch"):
        key = l0.random.fold_in(l0.random.key(7), epoch)
        order = l0.random.uniform(l0.random.fold_in(key, 0), len(x)).argsort()
        for step, batch in enumerate(order[: len(x) // 64 * 64].split(64)):
            draw = l0.random.split(l0.random.fold_in(key, step + 1), 2)
            logits, buffers = apply.with_buffers(params, gates, buffers, draw[0], shifted(x[batch], draw[1]))
            (F.cross_entropy(logits, y[batch]) + cost(gates)).backward()
            adam.step()
            adam.zero_grad()
        schedule.step()
        history.append({name: gate.detach().clone() for name, gate in gates.items()})
    return *({name: t.detach() for name, t in tree.items()} for tree in (params, gates)), buffers, history


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


def draw(picture: str, spec: l0.GateSpec, run: tuple, small: nn.Module, points: list[tuple[float, float]]) -> None:
    params, gates, _, history = run
    figure = Figure(figsize=(14, 8.4), layout="constrained")
    axes = figure.subplots(2, 3)
    convs = [name for name, p in params.items() if p.dim() == 4]
    l0.plot.widths({name: len(params[name]) for name in convs}, {n: len(small.get_parameter(n)) for n in convs}, axes[0, 0])
    l0.plot.density(l0.summary(params, gates, spec), axes[0, 1], names=convs)
    l0.plot.filters(l0.prune(params, gates, spec)["0.0.weight"], axes[0, 2])
    opens = [torch.cat([g.distribution.prob_nonzero(at[g.name]) for g in spec.gates]) for at in history]
    l0.plot.trajectories(range(1, len(opens) + 1), opens, axes[1, 0]).set_xlabel("epoch")
    l0.plot.open_probability(gates, spec, axes[1, 1])
    l0.plot.tradeoff({"penalties, and without": points}, axes[1, 2])
    figure.savefig(picture, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", default="compact_cnn.png")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lam", type=float, nargs=3, default=[0.5, 3.0, 8.0], help="cost of all multiply-adds of an image")
    chosen = parser.parse_args()
    x, y, x_test, y_test = digits()
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(resnet().train())
    plain = l0.gated(fn, l0.gate_spec(params, {}))
    params, _, buffers, _ = train(plain, params, {}, buffers, (x, y), chosen.epochs, lambda gates: 0.0, "dense")
    dense = l0.to_module(fn.eval(), params, buffers)

    spec = l0.gate_spec(params, groups=l0.unit_groups(dense, x[:2]), buffers=buffers)
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.2)
    counts = l0.count_macs(fn.eval(), params, buffers, x[:1])
    start = l0.compensate(params, gates, spec)
    runs, points = [], [(1.0, accuracy(dense, x_test, y_test))]
    for lam in chosen.lam:

        def cost(gates: Tensors, lam: float = lam) -> Tensor:
            return lam * l0.expected_macs(gates, spec, counts) / counts.total

        runs.append(train(l0.gated(fn, spec), start, gates, buffers, (x, y), chosen.epochs, cost, f"lam {lam:g}"))
        small = l0.to_module(*l0.compact(fn.eval(), *runs[-1][:3], spec))
        kept = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in dense.parameters())
        points.append((kept, accuracy(small, x_test, y_test)))
    run = runs[1]
    small = l0.to_module(*l0.compact(fn.eval(), *run[:3], spec)).eval()
    rows = table([dense.eval(), small], x_test, y_test)
    draw(chosen.picture, spec, run, small, points)
    print(f"\n{chosen.picture} shows what is left.")
    ratios = {name: before / after for name, (before, after) in rows.items()}
    assert ratios["multiply-adds, one image"] >= 2, ratios
    assert ratios["ms, batch of 128"] >= 1.5, ratios
    assert rows["accuracy, %"][1] >= rows["accuracy, %"][0] - 1, rows


if __name__ == "__main__":
    main()

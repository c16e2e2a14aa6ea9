"""How much smaller and faster does a small ResNet get when its channels are gated?

A ResNet learns to read handwritten digits. Then every channel gets a gate, expected multiply-adds
are the penalty, and closed channels are cut out of the network. Three penalties, a few minutes on
two cores; the table is about the middle one.

    python examples/compact_cnn.py [--picture compact_cnn_picture.png] [--epochs 60]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import command_line as cli
import torch
from compact_cnn_report import Trained, draw, measured, size
from resnet import accuracy, digits, resnet, shifted
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

Tensors = dict[str, Tensor]
Start = tuple[Tensors, Tensors, Tensors]

BATCH, EPOCHS = 64, 60
LAMS = (0.5, 3.0, 8.0)  # cost of all multiply-adds of an image


def objective(fn: Callable, spec: l0.GateSpec, counts: l0.MacCounts, lam: float) -> Callable:
    """Cross-entropy of shifted images plus the price of expected multiply-adds."""
    apply = l0.gated(fn, spec)

    def loss(
        params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensors]:
        mask_key, shift_key = l0.random.split(key, 2)
        images = shifted(x, shift_key)
        logits, buffers = apply.with_buffers(params, gates, buffers, mask_key, images)
        cost = lam * l0.expected_macs(gates, spec, counts) / counts.total
        return F.cross_entropy(logits, y) + cost, buffers

    return loss


def train(
    loss: Callable, start: Start, data: tuple[Tensor, Tensor], epochs: int, title: str
) -> tuple[l0.TrainState, list[Tensors]]:
    """The state after Adam on weights and, faster, on gates; and the gates after each epoch."""
    x, y = data
    steps = len(x) // BATCH
    rates = [l0.schedules.cosine(rate, 1e-4, epochs * steps) for rate in (2e-3, 0.1)]
    adams = [l0.optimizer(torch.optim.Adam, lr=rate) for rate in rates]
    init, step = l0.training(loss, *adams, donate=True)
    order_key, draw_key = l0.random.split(l0.random.key(7), 2)
    state, history = init(draw_key, *start), []
    for epoch in tqdm(range(epochs), desc=title, unit="epoch"):
        order = l0.random.uniform(l0.random.fold_in(order_key, epoch), len(x)).argsort()
        for batch in order[: steps * BATCH].split(BATCH):
            state, _ = step(state, x[batch], y[batch])
        # Copies, because the next step writes into these.
        history.append({name: gate.clone() for name, gate in state.gates.items()})
    return state, history


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=cli.picture, default="compact_cnn_picture.png")
    parser.add_argument("--epochs", type=cli.whole(1), default=EPOCHS, help="fewer claim nothing")
    parser.add_argument("--lam", type=cli.price, nargs=3, default=LAMS)
    options = parser.parse_args()
    x, y, x_test, y_test = digits()
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(resnet().train())
    counts = l0.count_macs(fn.eval(), params, buffers, x[:1])

    loss = objective(fn, l0.gate_spec(params, {"*": None}), counts, 0.0)
    state, _ = train(loss, (params, {}, buffers), (x, y), options.epochs, "dense")
    params, buffers = state.params, state.buffers
    dense = l0.to_module(fn.eval(), params, buffers)

    spec = l0.gate_spec(params, groups=l0.unit_groups(dense, x[:2]), buffers=buffers)
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.2)
    start = l0.compensate(params, gates, spec), gates, buffers
    runs, points = [], [(1.0, accuracy(dense, x_test, y_test))]
    for lam in options.lam:
        loss = objective(fn, spec, counts, lam)
        state, history = train(loss, start, (x, y), options.epochs, f"lam {lam:g}")
        pure = l0.compact(fn.eval(), state.params, state.gates, state.buffers, spec)
        small = l0.to_module(*pure)
        points.append((size(small) / size(dense), accuracy(small, x_test, y_test)))
        runs.append(Trained(state, history, small))
    rows = measured(dense, runs[1].small, x_test, y_test)
    draw(options.picture, spec, runs[1], points)
    print(f"\nThe picture is in {options.picture}.")
    if options.epochs >= EPOCHS:
        before, after = rows["multiply-adds, one image"]
        assert before >= 2 * after, "at most half of the multiply-adds are left"
        before, after = rows["accuracy, %"]
        assert after >= before - 1, "at most one point of accuracy is lost"


if __name__ == "__main__":
    main()

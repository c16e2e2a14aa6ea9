"""How few weights does a network need to read handwritten digits?

Trains an MLP 64-300-100-10 on scikit-learn's digits with a learned gate on every weight, an
independent mask for every example, prunes it, and draws which pixels the surviving first-layer
weights still look at.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import command_line as cli
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

EPOCHS, BATCH, LAM = 18, 32, 1.5e-5


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels in [0, 1] and labels: train pixels, test pixels, train labels, test labels."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        pixels.astype("float32") / 16, labels, test_size=0.2, random_state=0, stratify=labels
    )
    x_train, x_test, y_train, y_test = map(torch.as_tensor, parts)
    return x_train, x_test, y_train, y_test


def draw(first_layer: Tensor, x: Tensor, accuracy: float, density: float, path: Path) -> None:
    """The mean digit beside the number of weights that still look at each pixel."""
    looks = (first_layer != 0).sum(0).reshape(8, 8)
    figure = Figure(figsize=(7.2, 3.7), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, image, title, cmap in (
        (axes[0], x.mean(0).reshape(8, 8), "mean digit", "gray"),
        (axes[1], looks, f"surviving weights on each pixel (of {len(first_layer)})", "viridis"),
    ):
        shown = axis.imshow(image, cmap=cmap)
        figure.colorbar(shown, ax=axis, shrink=0.8)
        axis.set(title=title, xticks=[], yticks=[])
    for row in range(8):
        for column in range(8):
            count = int(looks[row, column])
            colour = "black" if count > 0.6 * looks.max() else "white"
            centred = {"ha": "center", "va": "center"}
            axes[1].text(column, row, count, fontsize=7, color=colour, **centred)
    figure.suptitle(f"{density:.1%} of the weights are left, {accuracy:.1%} of test digits read")
    figure.savefig(path, dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=cli.picture, default="quickstart_picture.png")
    parser.add_argument("--epochs", type=cli.whole(1), default=EPOCHS, help="fewer claim nothing")
    options = parser.parse_args()
    start = time.perf_counter()
    x_train, x_test, y_train, y_test = digits()
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )

    fn, params, buffers = l0.make_functional(mlp)
    spec = l0.gate_spec(params, {"*.weight": l0.element(), "*.bias": None})
    init_key, order_key, mask_key = l0.random.split(l0.random.key(0), 3)
    gates = l0.init_gates(init_key, spec, droprate=0.2)
    apply = l0.gated(fn, spec)
    rows = l0.per_example(apply)

    def accuracy(outputs: Tensor) -> float:
        return (outputs.argmax(1) == y_test).float().mean().item()

    def loss(
        params: l0.Tree, gates: l0.Tree, buffers: l0.Tree, key: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        outputs = rows(params, gates, buffers, l0.random.split(key, len(x)), x)
        return F.cross_entropy(outputs, y) + l0.penalty(params, gates, spec, LAM)

    adams = [l0.optimizer(torch.optim.Adam, lr=rate) for rate in (5e-3, 0.1)]
    init, step = l0.training(loss, *adams, donate=True)
    state = init(mask_key, params, gates, buffers)
    bar = tqdm(range(options.epochs), desc="training", unit="epoch")
    for epoch in bar:
        order = l0.random.uniform(l0.random.fold_in(order_key, epoch), len(x_train)).argsort()
        for batch in order.split(BATCH):
            state, value = step(state, x_train[batch], y_train[batch])
        density = 1 - l0.expected_sparsity(state.gates, spec).item()
        bar.set_postfix(loss=f"{value.item():.3f}", density=f"{density:.1%}")

    params, gates = state.params, state.gates
    pruned = l0.prune(params, gates, spec)
    gated_accuracy = accuracy(apply(params, gates, buffers, None, x_test))
    pruned_accuracy = accuracy(fn(pruned, buffers, x_test))
    table = l0.summary(params, gates, spec)
    weights = [row for row in table.rows if row.gates]
    left = sum(row.realised_open for row in weights) / sum(row.entries for row in weights)
    draw(pruned["0.weight"], x_train, pruned_accuracy, left, options.picture)

    print(f"\n{table}\n")
    print(f"test accuracy behind its gates      {gated_accuracy:.2%}")
    print(f"test accuracy pruned                {pruned_accuracy:.2%}")
    print(f"weights left                        {left:.2%}")
    print(f"picture                             {options.picture}")
    print(f"seconds                             {time.perf_counter() - start:.0f}")
    if options.epochs >= EPOCHS:
        assert pruned_accuracy >= 0.96, "the pruned network reads at least 96 % of the test digits"
        assert left <= 0.15, "at most 15 % of the weights are left"


if __name__ == "__main__":
    main()

"""LeNet-5-Caffe on MNIST: the second table of Louizos, Welling & Kingma (2018), and a target."""

from __future__ import annotations

from runs import Layer, Network, Row, main
from torch import nn

import l0func as l0
from l0func.spec.plan import Group


def module() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def made(maker: str, readers: dict[str, object]) -> Group:
    return l0.group(readers, owns={f"{maker}.weight": l0.axis(0), f"{maker}.bias": l0.axis(0)})


NETWORK = Network(
    "LeNet-5-Caffe",
    module,
    {
        "maps1": Layer(made("0", {"3.weight": l0.axis(1)}), 0.5, 25),
        "maps2": Layer(made("3", {"7.weight": l0.blocks(1, 16)}), 0.5, 500),
        "inputs": Layer(l0.group({"7.weight": l0.axis(1)}), 0.5, 500),
        "hidden": Layer(made("7", {"9.weight": l0.axis(1)}), 0.5, 10),
    },
    (1, 28, 28),
    chunk_size=1,
)
ROWS = (
    Row("paper", lams=(0.1,) * 4, average=0.0, epochs=40, seeds=1),
    Row(
        "target-1.5",
        target=0.015,
        gates_lr=1e-2,
        anneal=True,
        epochs=40,
        warmup=6000,
        seeds=3,
        damping=0.1,
    ),
    # The weight decay that a validation split chose for LeNet-300-100.
    Row(
        "target-1.5-decay",
        target=0.015,
        gates_lr=1e-2,
        weight_decay=5e-5,
        anneal=True,
        epochs=24,
        warmup=6000,
        seeds=3,
    ),
)

if __name__ == "__main__":
    main(NETWORK, ROWS, {"target-1.5-decay": (0.015, 0.010)})

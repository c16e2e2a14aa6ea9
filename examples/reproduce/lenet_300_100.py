"""LeNet-300-100 on MNIST: the first table of Louizos, Welling & Kingma (2018), and a target."""

from __future__ import annotations

from dataclasses import replace

from runs import Layer, Network, Row, main
from torch import nn

import l0func as l0
from l0func.spec.plan import Group


def module() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def hidden(reader: str, maker: str) -> Group:
    return l0.group(
        {f"{reader}.weight": l0.axis(1)},
        owns={f"{maker}.weight": l0.axis(0), f"{maker}.bias": l0.axis(0)},
    )


NETWORK = Network(
    "LeNet-300-100",
    module,
    {
        "pixels": Layer(l0.group({"0.weight": l0.axis(1)}), 0.2, 300),
        "first": Layer(hidden("2", "0"), 0.5, 100),
        "second": Layer(hidden("4", "2"), 0.5, 10),
    },
    (784,),
)
TARGET = Row(
    "target-10",
    target=0.10,
    gates_lr=1e-2,
    weight_decay=1e-4,
    anneal=True,
    epochs=100,
    warmup=6000,
    dual_lr=3e-4,
)
ROWS = (
    Row("paper", lams=(0.1, 0.1, 0.1)),
    TARGET,
    replace(TARGET, name="target-10-5e-5", weight_decay=5e-5, dual_lr=1e-3),
    replace(
        TARGET,
        name="target-7.59",
        target=0.0759,
        weight_decay=0.0,
        dual_lr=1.728e-4,
        damping=0.01728,
    ),
)

if __name__ == "__main__":
    main(
        NETWORK,
        ROWS,
        {"paper": (0.27, 0.016), "target-10": (0.10, 0.0185), "target-7.59": (0.076, 0.021)},
    )

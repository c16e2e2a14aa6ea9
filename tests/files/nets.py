"""A small network and a training state, written and read by the files' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import l0func as l0
from l0func.internal import tree

PARAMS = {
    "layer.weight": torch.arange(24.0).reshape(6, 4) / 7,
    "layer.bias": torch.linspace(-1, 1, 6),
    "out.weight": torch.arange(12.0).reshape(2, 6) / 5,
}
BUFFERS = {"mean": torch.linspace(0, 1, 6), "seen": torch.tensor(7), "on": torch.tensor([True])}
UNITS = l0.group(
    {"out.weight": l0.axis(1)},
    owns={"layer.weight": l0.axis(0), "layer.bias": l0.axis(0), "mean": l0.axis(0)},
    attrs={"width": 1},
)
SPEC = l0.gate_spec(
    PARAMS, {"layer.weight": l0.element()}, groups={"units": UNITS}, buffers=BUFFERS
)
GATES = l0.init_gates(l0.random.key(0), SPEC)


class Kind(NamedTuple):
    """A kind of file: how it is written, and how its numbers are read as one flat dict."""

    save: Any
    load: Any


def save_network(path: Any, value: float = 0.0) -> None:
    params = {name: t + value for name, t in PARAMS.items()}
    l0.save(path, params, GATES, BUFFERS, SPEC)


def load_network(path: Any) -> dict[str, Tensor]:
    saved = l0.load(path)
    assert saved.spec == SPEC
    return tree.leaves(saved._replace(spec=None))


def loss(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor) -> Any:
    masked = l0.apply_masks(params, l0.sample_masks(key, gates, SPEC))
    return sum((t * x).sum() for t in masked.values()), buffers


ADAM = l0.optimizer(torch.optim.Adam, lr=0.1)
TRAINING = l0.training(loss, ADAM, ADAM)
START = TRAINING.init(l0.random.key(1), PARAMS, GATES, BUFFERS)
STATE = TRAINING.step(START, torch.tensor(1.0))[0]
SETTINGS = {"lr": 0.1, "data": "none"}


def save_state(path: Any, value: float = 0.0) -> None:
    params = {name: t + value for name, t in STATE.params.items()}
    l0.save_state(path, STATE._replace(params=params), SPEC, SETTINGS)


def load_state(path: Any) -> dict[str, Tensor]:
    return tree.leaves(l0.load_state(path, START, SPEC, SETTINGS))


KINDS = {
    "network": Kind(save_network, load_network),
    "state": Kind(save_state, load_state),
}


def whole(kind: Kind, folder: Path) -> tuple[bytes, dict[str, Tensor]]:
    """The bytes of a good file, and the numbers in it."""
    path = folder / "whole"
    kind.save(path)
    return path.read_bytes(), kind.load(path)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether two flat trees have the same names, dtypes and bits."""
    return list(found) == list(expected) and all(
        t.dtype == expected[name].dtype and torch.equal(t, expected[name])
        for name, t in found.items()
    )

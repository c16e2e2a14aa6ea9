"""Specs that between them use every rule, in every role."""

from __future__ import annotations

import pytest
from torch import Tensor

import l0func as l0
from l0func import random

KEY = random.key(0)


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        name: random.normal(random.fold_in(KEY, i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def specs() -> dict[str, tuple[dict[str, Tensor], l0.GateSpec]]:
    """Specs that between them use every rule, in every role."""
    mlp = tensors(w1=(4, 3), b1=(4,), w2=(2, 4))
    conv = tensors(conv=(4, 2, 3, 3), fc=(2, 8))
    lstm = tensors(w_ih=(16, 3), w_hh=(16, 4), out=(2, 4))
    heads = tensors(q=(8, 4), k=(4, 4), v=(4, 4), o=(4, 8))
    hidden = l0.group({"w2": l0.axis(1)}, owns={"w1": l0.axis(0), "b1": l0.axis(0)})
    unit = l0.group(
        {"w_hh": l0.axis(1), "out": l0.axis(1)},
        owns={"w_ih": l0.tiles(0, 4), "w_hh": l0.tiles(0, 4)},
    )
    head = l0.group(
        {"o": l0.blocks(1, 2)},
        owns={
            "q": l0.blocks(0, 2),
            "k": l0.blocks(0, 2, sharers=2),
            "v": [l0.blocks(0, 2, sharers=2)],
        },
    )
    return {
        "every_scalar": (mlp, l0.gate_spec(mlp)),
        "excluded": (mlp, l0.gate_spec(mlp, {"b*": None, "*": l0.element()})),
        "rows_and_columns": (
            mlp,
            l0.gate_spec(mlp, {"w1": [l0.axis(0), l0.axis(-1)], "w2": [l0.element(), l0.whole()]}),
        ),
        "parts": (
            conv,
            l0.gate_spec(conv, {"conv": l0.axis(0, 1, 3), "fc": l0.blocks(1, 2, start=2, stop=6)}),
        ),
        "planes": (conv, l0.gate_spec(conv, {"conv": l0.axes(0, 1), "fc": l0.tiles(1, 4)})),
        "hidden_units": (mlp, l0.gate_spec(mlp, groups={"hidden": hidden})),
        "units_and_weights": (
            mlp,
            l0.gate_spec(mlp, {"w*": l0.element()}, groups={"hidden": hidden}),
        ),
        "lstm_units": (lstm, l0.gate_spec(lstm, groups={"unit": unit})),
        "twice_multiplied": (
            lstm,
            l0.gate_spec(lstm, groups={"u": l0.group({"w_hh": [l0.axis(1), l0.tiles(0, 4)]})}),
        ),
        "grouped_query_heads": (heads, l0.gate_spec(heads, groups={"head": head})),
        "other_distributions": (
            mlp,
            l0.gate_spec(
                mlp,
                distribution={
                    "w1": l0.GaussianGate(),
                    "w2": l0.HardKuma(),
                    "*": l0.HardConcrete(0.5),
                },
            ),
        ),
    }


SPECS = specs()


def example(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], l0.GateSpec]:
    params, spec = SPECS[name]
    gates = l0.init_gates(KEY, spec, droprate=0.4, noise=1.0)
    return params, gates, spec


every = pytest.mark.parametrize("name", SPECS)


def dense(values: dict[str, Tensor], name: str, number: int) -> float:
    return values[name].reshape(-1)[number].item()

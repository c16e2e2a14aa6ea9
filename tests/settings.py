"""A gated function with everything that it takes, for one module of the zoo."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from zoo import Case

import l0func as l0
from l0func import random

KEYS = random.split(random.key(3), 5)


class Setting(NamedTuple):
    apply: Any
    rows: Any
    params: dict[str, Tensor]
    gates: dict[str, Tensor]
    buffers: dict[str, Tensor]
    spec: l0.GateSpec
    inputs: tuple[Any, ...]


def setting(case: Case, rules: Any = None, **mapping: Any) -> Setting:
    fn, params, buffers = l0.make_functional(case.build())
    spec = l0.gate_spec(params, rules)
    gates = l0.init_gates(random.key(1), spec, droprate=0.4, noise=0.5)
    apply = l0.gated(fn, spec)
    rows = l0.per_example(apply, case.in_dims, case.out_dims, **mapping)
    return Setting(apply, rows, params, gates, buffers, spec, case.batch())

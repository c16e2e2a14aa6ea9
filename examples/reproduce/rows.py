"""The description of a reproduction: a network with gate vectors, and the rows of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn


class Layer(NamedTuple):
    """A gate vector of the paper."""

    group: Any
    droprate: float
    """The probability that a gate starts below one half."""
    weights: int
    """Weights that one gate pays for."""


class Network(NamedTuple):
    """A module, its gate vectors by name, and the shape of one input."""

    name: str
    module: Callable[[], nn.Module]
    layers: dict[str, Layer]
    shape: tuple[int, ...]
    chunk_size: int | None = None
    """Seeds at once; one where there are convolutions, because a CPU is slower on several."""


@dataclass(frozen=True)
class Row:
    """One row of a table: the paper's λ for every gate vector, or a density to reach."""

    name: str
    lams: tuple[float, ...] = ()
    target: float | None = None
    lr: float = 1e-3
    gates_lr: float = 1e-3
    weight_decay: float = 0.0
    anneal: bool = False
    epochs: int = 200
    seeds: int = 5
    batch: int = 100
    average: float = 0.999
    warmup: int = 0
    dual_lr: float = 1e-3
    damping: float = 0.03

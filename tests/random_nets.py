"""Random module trees, rules, dtypes and gates, for laws that hold for all of them."""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, configuration, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

# Hypothesis keeps tables in a folder; it is not the checkout.
configuration.set_hypothesis_home_dir(tempfile.mkdtemp())


def examples(number: int) -> Any:
    """The same random examples in every run, with no limit on their time and no file."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=quiet,
    )


TIME, WIDTH = 3, 4
"""Every block takes and gives tensors of shape (rows, TIME, WIDTH)."""


class Hidden(nn.Module):
    """Two linear layers with hidden units between."""

    def __init__(self, units: int = 5) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, units), nn.Linear(units, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Again(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Tied(nn.Module):
    """A decoder with the encoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(WIDTH, WIDTH)
        self.decode = nn.Linear(WIDTH, WIDTH, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.relu(self.encode(x)))


class Along(nn.Module):
    """A convolution along time, with a norm of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(WIDTH, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.back = nn.Conv1d(6, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(torch.relu(self.norm(self.conv(x.mT)))).mT


class Scaled(nn.Module):
    """Hidden units, each divided by the root of their mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.Linear(WIDTH, 6), nn.RMSNorm(6)
        self.down = nn.Linear(6, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.norm(self.up(x))))


class Plane(nn.Module):
    """Convolutions over time and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.back = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(F.gelu(self.norm(self.conv(x[:, None]))))[:, 0]


class Memory(nn.Module):
    """A recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Heads(nn.Module):
    """Self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Beside(nn.Module):
    """A block beside a skip."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


BLOCKS = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "hidden": Hidden,
    "again": Again,
    "tied": Tied,
    "along": Along,
    "plane": Plane,
    "lstm": lambda: Memory(nn.LSTM),
    "gru": lambda: Memory(nn.GRU),
    "rnn": lambda: Memory(nn.RNN),
    "heads": Heads,
    "layer_norm": lambda: nn.LayerNorm(WIDTH),
    "skip": lambda: Beside(Hidden(3)),
    "skip_heads": lambda: Beside(Heads()),
    "dropout": lambda: nn.Dropout(0.3),
}
if hasattr(nn, "RMSNorm"):
    BLOCKS["scaled"] = Scaled
_WITH_UNITS = ("hidden", "along", "scaled", "plane", "gru", "skip", "heads", "linear")
SHRINKING = tuple(name for name in _WITH_UNITS if name in BLOCKS)
"""Blocks that may lose units, and a linear layer that may not."""
DISTRIBUTIONS = (
    l0.HardConcrete(),
    l0.HardConcrete(0.3, -0.2, 1.3),
    l0.HardKuma(),
    l0.GaussianGate(0.4),
)


@st.composite
def trees(draw: Any, blocks: tuple[str, ...] = tuple(BLOCKS)) -> nn.Module:
    """A module of one or two blocks, and at times one of them a second time."""
    names = draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=2))
    seed = draw(st.integers(0, 2**16))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [BLOCKS[name]() for name in names]
        module = nn.Sequential(*parts, nn.Linear(WIDTH, 2))
    if draw(st.booleans()):
        module.insert(len(parts), draw(st.sampled_from(parts)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return module.to(dtype).train("dropout" in names and "along" not in names)


@st.composite
def rules_for(draw: Any, shape: tuple[int, ...]) -> Any:
    """A rule that fits a shape, or none."""
    kinds = ["none", "element", "whole", "axis", "part", "blocks", "tiles"]
    kind = draw(st.sampled_from([*kinds, "axes"] if len(shape) > 1 else kinds))
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[dim]
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    if kind == "part":
        start = draw(st.integers(0, size - 1))
        return l0.axis(dim, start, draw(st.integers(start + 1, size)))
    if kind in ("blocks", "tiles"):
        return getattr(l0, kind)(dim, draw(st.sampled_from(divisors)))
    made = {"none": None, "element": l0.element(), "whole": l0.whole(), "axis": l0.axis(dim)}
    return made[kind] if kind in made else l0.axes(0, len(shape) - 1)


class Problem(NamedTuple):
    """A gated network and a batch for it."""

    module: nn.Module
    fn: Any
    params: dict[str, Tensor]
    gates: dict[str, Tensor]
    buffers: dict[str, Tensor]
    spec: l0.GateSpec
    x: Tensor

    @property
    def keys(self) -> Tensor:
        return l0.random.split(l0.random.key(7), len(self.x))

    @property
    def tolerance(self) -> dict[str, float]:
        is_double = self.x.dtype == torch.float64
        return {"rtol": 1e-9, "atol": 1e-10} if is_double else {"rtol": 2e-3, "atol": 2e-4}


@st.composite
def problems(draw: Any, blocks: tuple[str, ...] = tuple(BLOCKS)) -> Problem:
    """A random network with random rules on all of its parameters."""
    module = draw(trees(blocks))
    fn, params, buffers = l0.make_functional(module)
    rules = {path: draw(rules_for(tuple(p.shape))) for path, p in params.items()}
    rules[draw(st.sampled_from(sorted(params)))] = l0.element()
    chosen = draw(st.sampled_from(DISTRIBUTIONS))
    spec = l0.gate_spec(params, rules, distribution=chosen, buffers=buffers)
    seed = draw(st.integers(0, 2**16))
    gates = l0.init_gates(l0.random.key(seed), spec, droprate=0.4, noise=0.5)
    dtype = next(iter(params.values())).dtype
    x = l0.random.normal(l0.random.key(seed + 1), (2, TIME, WIDTH)).to(dtype)
    return Problem(module, fn, params, gates, buffers, spec, x)

"""Modules that cut one layer's output into pieces, and a check of random removals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from device import seeded_generator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import l0func as l0


class Cut(nn.Module):
    """Two layers, and a reader for each piece of the second one's output."""

    def __init__(self, cut: Callable[[Cut, Tensor], Any], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.cut, self.half, self.sizes = cut, widths[0], list(widths)
        self.enter, self.fc = nn.Linear(3, 5), nn.Linear(5, 12)
        self.readers = nn.ModuleList(nn.Linear(width, 2) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.cut(self, self.fc(torch.relu(self.enter(x))))
        y = 0
        for i, piece in enumerate(pieces):
            activation = (torch.relu, torch.tanh, torch.sigmoid)[i % 3]
            y = y + self.readers[i](activation(piece))
        return y


def _by_activations(cut: Cut, y: Tensor) -> list[Tensor]:
    first, second = y.chunk(2, -1)
    return [torch.cat([torch.relu(first), torch.tanh(second)], -1)]


def _swiglu(cut: Cut, y: Tensor) -> list[Tensor]:
    first, second = y.chunk(2, -1)
    return [F.silu(first) * second]


def _lstm_gates(cut: Cut, y: Tensor) -> list[Tensor]:
    i, f, g, o = y.chunk(4, -1)
    return [o.sigmoid() * torch.tanh(i.sigmoid() * g.tanh() + 0.1 * f)]


def _last_four_at_a_time(cut: Cut, y: Tensor) -> list[Tensor]:
    pieces = []
    for _ in range(3):
        y, piece = y.split([y.shape[-1] - 4, 4], -1)
        pieces.append(piece)
    return pieces


HALVES, THIRDS, WHOLE = (6, 6), (4, 4, 4), (12,)
# The way to cut; the widths of its pieces; the sizes of the groups of fc's units.
CUTS: dict[str, tuple[Callable[[Cut, Tensor], Any], tuple[int, ...], list[int]]] = {
    "chunk": (lambda m, y: y.chunk(2, -1), HALVES, [6]),
    "chunk, swapped": (lambda m, y: y.chunk(2, -1)[::-1], HALVES, [6]),
    "tensor_split": (lambda m, y: y.tensor_split(2, -1), HALVES, [6]),
    "tensor_split at an attribute": (lambda m, y: y.tensor_split([m.half], -1), HALVES, [6, 6]),
    "split by an attribute": (lambda m, y: y.split(m.half, -1), HALVES, [6]),
    "split by a list": (lambda m, y: y.split(m.sizes, -1), (4, 8), [4, 8]),
    "narrow": (lambda m, y: (y.narrow(1, 0, m.half), y.narrow(1, m.half, m.half)), HALVES, [6]),
    "slices": (lambda m, y: (y[:, : m.half], y[:, m.half :]), HALVES, [6, 6]),
    "slices from the end": (lambda m, y: (y[:, : m.half], y[:, -m.half :]), HALVES, [6]),
    "slices by size": (
        lambda m, y: (y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]),
        HALVES,
        [6],
    ),
    "reshape and unbind": (lambda m, y: y.reshape(len(y), 2, -1).unbind(1), HALVES, [6]),
    "unbind along the last": (lambda m, y: y.reshape(len(y), -1, 2).unbind(-1), HALVES, [6]),
    "even and odd": (lambda m, y: (y[:, ::2], y[:, 1::2]), HALVES, [6]),
    "glu": (lambda m, y: [F.glu(y)], (6,), [6]),
    "swiglu": (_swiglu, (6,), [6]),
    "gates of an LSTM": (_lstm_gates, (3,), [3]),
    "three": (lambda m, y: y.chunk(3, -1), THIRDS, [4]),
    "joined again": (_by_activations, WHOLE, [6]),
    "rolled by half": (lambda m, y: [y.roll(y.shape[1] // 2, 1)], WHOLE, [6]),
    # Sizes in the code, positions and widths: these must stay.
    "split by fixed sizes": (lambda m, y: y.split([4, 8], -1), (4, 8), []),
    "a loop": (_last_four_at_a_time, THIRDS, []),
    "squeeze": (lambda m, y: [y.unsqueeze(0).squeeze()], WHOLE, []),
    "positions": (lambda m, y: [y * torch.arange(y.shape[1]).to(y)], WHOLE, []),
    "width": (lambda m, y: [y / y.shape[1]], WHOLE, []),
    "a branch on one size": (lambda m, y: [y if y.shape[1] != 1 else 2 * y], WHOLE, []),
    "a branch on another size": (lambda m, y: [y if y.shape[1] != 3 else 2 * y], WHOLE, []),
}


def wrong_removals(module: nn.Module, inputs: tuple[Any, ...], groups: Any, draws: int) -> list:
    """The numbers of closed units, in random draws, that give another output than pruning."""
    module = module.to(torch.float64)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    wrong = []
    generator = seeded_generator(0)
    for _ in range(draws):
        gates, lost = {}, []
        for gate in spec.gates:
            size = gate.shape[0]
            extreme, draw = torch.rand(2, generator=generator).tolist()
            count = int(draw * size) if extreme < 0.7 else (size - 1) * (extreme < 0.85)
            order = torch.rand(size, generator=generator).argsort()
            values = 4 * torch.rand(size, generator=generator, dtype=torch.float64)
            values[order[:count]] = -20.0
            gates[gate.name] = values
            lost.append(count)
        pruned = l0.prune(params, gates, spec)
        expected = functional_call(module, {**pruned, **buffers}, inputs)
        try:
            small = l0.compact(fn, params, gates, buffers, spec)
            output = small.fn(small.params, small.buffers, *inputs)
            right = torch.allclose(output, expected, atol=1e-8)
        except Exception:
            right = False
        if not right:
            wrong.append(lost)
    return wrong

"""One cache-sized chunk of gates: drawn, contracted, forgotten. One source for the eager and the
compiled kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.distributions import GateDistribution
from l0func.internal.context import compiling
from l0func.kernels import philox
from l0func.kernels.unfold import Unfold

Kind = str
"""``"y"``, ``"x"`` or ``"a"``: which of the three factors of a contraction is the result."""


class Output(NamedTuple):
    """A contraction of the derivative of some order of the masks."""

    kind: Kind
    order: int


@dataclass(frozen=True)
class Contraction:
    r"""What is contracted: :math:`S_k = \sum g_{bro}\, x_{bri}\, A_{oi}\, z^{(k)}_{boi}` in G
    groups side by side.

    Args:
        distribution: Of the gates z.
        shape: ``(G, O, I)`` of the weight A.
        repeat: Consecutive entries of a row of A that share a gate.
        first: Position of the first gate in the stream of a key.
        unfold: What makes the rows of x of an image; None where x is ``(B, R, I)`` itself.
    """

    distribution: GateDistribution
    shape: tuple[int, int, int]
    repeat: int = 1
    first: int = 0
    unfold: Unfold | None = None

    @property
    def gates(self) -> tuple[int, int, int]:
        """The shape of the gates."""
        groups, rows, columns = self.shape
        return groups, rows, columns // self.repeat


class Chunk(NamedTuple):
    """Operands of one call, each a list of planes.

    Entry ``4c + w`` of the gates is word w of call c of the generator: four planes, one for each
    word, need no shuffling.
    """

    ready: list[Tensor]
    """Prepared locations, ``(G, O, gates of a row)``."""
    a: list[Tensor] | None
    """The weight, ``(G, O, I)``."""
    x: list[Tensor] | None
    """Rows, ``(b, G, R, I)``."""
    g: Tensor | None
    """``(b, G, R, O)``."""


def uniform_planes(keys: Tensor, call: Tensor, count: int) -> list[Tensor]:
    """Four planes of uniforms, ``(b, count)`` each, from call number ``call`` on."""
    index = call + torch.arange(count, dtype=torch.int64, device=keys.device)
    return [philox.unit(word) for word in philox.call(keys[:, :1], keys[:, 1:], index)]


Draws = list[dict[int, Tensor]]
"""For each plane, by the order of the derivative, ``(b, G, O, I)``."""


def draw(
    plan: Contraction, outputs: Sequence[Output], uniforms: Sequence[Tensor], chunk: Chunk
) -> Draws:
    """The masks, or their derivatives, that some outputs need.

    Args:
        plan: What is contracted.
        outputs: Which results will be asked for.
        uniforms: For each plane ``(b, gates)``.
        chunk: The operands.
    """
    orders = sorted({output.order for output in outputs})
    draws: Draws = []
    compute = plan.distribution.derivatives if compiling() else plan.distribution.evaluated
    for u, ready in zip(uniforms, chunk.ready, strict=True):
        z = compute(u.reshape(-1, *ready.shape).to(ready.dtype), ready, orders)
        draws.append(
            {
                order: _repeated(values, plan.repeat)
                for order, values in zip(orders, z, strict=True)
            }
        )
    return draws


def contract(outputs: Sequence[Output], draws: Draws, chunk: Chunk) -> list[list[Tensor]]:
    """Every output for one chunk, by planes.

    Args:
        outputs: Which results.
        draws: The masks.
        chunk: The operands.

    Returns:
        For each output its planes: ``y`` has one, ``(b, G, R, O)``; ``x`` is ``(b, G, R, I)``;
        ``a`` is ``(G, O, I)``, summed over the chunk.
    """
    planes: list[list[Tensor]] = [[] for _ in outputs]
    for plane, z in enumerate(draws):
        a = None if chunk.a is None else chunk.a[plane]
        x = None if chunk.x is None else chunk.x[plane]
        for into, output in zip(planes, outputs, strict=True):
            into.append(_contract_plane(output.kind, z[output.order], a, x, chunk.g))
    return [
        [sum(p[1:], p[0])] if output.kind == "y" else p
        for p, output in zip(planes, outputs, strict=True)
    ]


def _repeated(z: Tensor, repeat: int) -> Tensor:
    return z if repeat == 1 else z.unsqueeze(-1).expand(*z.shape, repeat).flatten(-2)


def _contract_plane(
    kind: Kind, z: Tensor, a: Tensor | None, x: Tensor | None, g: Tensor | None
) -> Tensor:
    """One contraction with masks ``(b, G, O, I)``."""
    if kind == "y":
        assert a is not None
        assert x is not None
        return (
            (z * a * x).sum(-1).unsqueeze(2) if x.shape[2] == 1 else x @ (z * a).transpose(-2, -1)
        )
    assert g is not None
    if kind == "x":
        assert a is not None
        return (
            (z * a * g.transpose(-2, -1)).sum(-2, keepdim=True) if g.shape[2] == 1 else g @ (z * a)
        )
    assert x is not None
    outer = g.transpose(-2, -1) * x if x.shape[2] == 1 else g.transpose(-2, -1) @ x
    return (z * outer).sum(0)

"""The computation in one cache-sized chunk of gates: draw the masks, contract, forget the masks.

The eager and the compiled kernel share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from l0func.distributions import GateDistribution
from l0func.kernels import philox
from l0func.kernels.unfold import Unfold

Kind = Literal["y", "x", "a"]
"""One of the three factors: the one to compute from the two others."""


class Output(NamedTuple):
    """One result: a kind, and the order of the masks' derivative."""

    kind: Kind
    order: int


@dataclass(frozen=True)
class Contraction:
    r"""The fixed sizes of a contraction with G independent groups.

    .. math:: S_k = \sum g_{bro}\, x_{bri}\, A_{oi}\, z^{(k)}_{boi}

    Args:
        distribution: The distribution of the gates z.
        shape: ``(G, O, I)`` of the weight A.
        repeat: Consecutive entries in a row of A that share a gate.
        first: Position of the first gate in a key's stream.
        unfold: The windows that turn images into x; None if x is ``(B, R, I)`` itself.
    """

    distribution: GateDistribution
    shape: tuple[int, int, int]
    repeat: int = 1
    first: int = 0
    unfold: Unfold | None = None

    @property
    def gates(self) -> tuple[int, int, int]:
        """The shape of the gates."""
        groups, weight_rows, columns = self.shape
        return groups, weight_rows, columns // self.repeat


class Chunk(NamedTuple):
    """Operands for one chunk; all but ``g`` are lists of planes.

    Gate number ``4c + w`` uses word w from generator call c. With a plane for each of the four
    words, the draws need no shuffling: plane w holds every fourth column from w on. Otherwise
    one plane holds all columns.
    """

    ready: list[Tensor]
    """Prepared locations, ``(G, O, gates of a weight row)``."""
    a: list[Tensor] | None
    """The weight, ``(G, O, I)``."""
    x: list[Tensor] | None
    """Input vectors, ``(b, G, R, I)``."""
    g: Tensor | None
    """Output vectors or gradients in them, ``(b, G, R, O)``."""


def uniform_planes(keys: Tensor, call: Tensor, count: int) -> list[Tensor]:
    """Uniforms in four planes, ``(b, count)`` each, from call number ``call`` on."""
    index = call + torch.arange(count, dtype=torch.int64, device=keys.device)
    seed, offset = keys[:, :1], keys[:, 1:]
    words = philox.call(seed, offset, index)
    return [philox.unit(word) for word in words]


Draws = list[dict[int, Tensor]]
"""For each plane: the masks ``(b, G, O, I)``, by the order of their derivative."""


def draw(
    contraction: Contraction,
    outputs: Sequence[Output],
    uniforms: Sequence[Tensor],
    chunk: Chunk,
) -> Draws:
    """The masks, or their derivatives, that some outputs need.

    Args:
        contraction: The sizes.
        outputs: The results to come.
        uniforms: For each plane ``(b, gates)``.
        chunk: The operands.
    """
    orders = sorted({output.order for output in outputs})
    distribution = contraction.distribution
    draws: Draws = []
    for plane, ready in zip(uniforms, chunk.ready, strict=True):
        u = plane.reshape(-1, *ready.shape).to(ready.dtype)
        values = distribution.derivatives(u, ready, orders)
        entries = [_repeated(z, contraction.repeat) for z in values]
        draws.append(dict(zip(orders, entries, strict=True)))
    return draws


def contract(outputs: Sequence[Output], draws: Draws, chunk: Chunk) -> list[list[Tensor]]:
    """Every output for one chunk, by planes.

    Args:
        outputs: The results to compute.
        draws: The masks.
        chunk: The operands.

    Returns:
        For each output its planes: ``y`` has one, ``(b, G, R, O)``; ``x`` is ``(b, G, R, I)``;
        ``a`` is ``(G, O, I)``, summed over the chunk's examples.
    """
    planes: list[list[Tensor]] = [[] for _ in outputs]
    for number, masks in enumerate(draws):
        a = None if chunk.a is None else chunk.a[number]
        x = None if chunk.x is None else chunk.x[number]
        for into, (kind, order) in zip(planes, outputs, strict=True):
            into.append(_contract_plane(kind, masks[order], a, x, chunk.g))
    pairs = zip(outputs, planes, strict=True)
    return [_summed(p) if output.kind == "y" else p for output, p in pairs]


def _summed(planes: list[Tensor]) -> list[Tensor]:
    return [sum(planes[1:], planes[0])]


def _repeated(z: Tensor, repeat: int) -> Tensor:
    """Each gate at all the entries that share it."""
    if repeat == 1:
        return z
    return z.unsqueeze(-1).expand(*z.shape, repeat).flatten(-2)


def _contract_plane(
    kind: Kind, z: Tensor, a: Tensor | None, x: Tensor | None, g: Tensor | None
) -> Tensor:
    """One contraction with masks ``(b, G, O, I)``."""
    if kind == "y":
        assert a is not None
        assert x is not None
        return _forward_product(z * a, x)
    assert g is not None
    if kind == "x":
        assert a is not None
        return _backward_product(z * a, g)
    assert x is not None
    return (z * _outer(g, x)).sum(0)


# For one vector a key, a sum of products is faster than a matrix product.


def _forward_product(masked: Tensor, x: Tensor) -> Tensor:
    """Output vectors from input vectors."""
    if x.shape[2] == 1:
        return (masked * x).sum(-1).unsqueeze(2)
    return x @ masked.transpose(-2, -1)


def _backward_product(masked: Tensor, g: Tensor) -> Tensor:
    """Input vectors from output vectors."""
    if g.shape[2] == 1:
        return (masked * g.transpose(-2, -1)).sum(-2, keepdim=True)
    return g @ masked


def _outer(g: Tensor, x: Tensor) -> Tensor:
    """For each weight entry, the sum over vectors of output times input."""
    columns = g.transpose(-2, -1)
    return columns * x if x.shape[2] == 1 else columns @ x

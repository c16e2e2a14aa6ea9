"""The contractions that kernels compute: their factors, sizes and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from l0func.kernels.convolution import ConvolutionSizes
from l0func.kernels.formula import Formula

Kind = Literal["y", "x", "a"]
"""One of the three factors: the one to compute from the two others."""


class Output(NamedTuple):
    """One result: a kind, and the order of the masks' derivative."""

    kind: Kind
    order: int


class Distribution(Protocol):
    """What the kernels ask of a gate distribution."""

    @property
    def formula(self) -> Formula | None:
        """Its formula; None where only torch can draw."""
        ...

    def derivatives(self, u: Tensor, log_alpha: Tensor, orders: Sequence[int]) -> list[Tensor]:
        """Derivatives of the draw in its location."""
        ...


@dataclass(frozen=True)
class Contraction:
    r"""The constants of a product with a masked weight, and of its derivatives.

    .. math:: S_k = \sum g_{bro}\, x_{bri}\, A_{oi}\, z^{(k)}_{boi}

    A convolution is such a product too, with images for x and g.

    Args:
        distribution: The distribution of the gates z.
        shape: ``(O, I)`` of the weight A. A convolution's kernel has I entries for each output.
        repeat: Consecutive entries in a row of A that share a gate.
        first: Position of the first gate in a key's stream.
        convolution: The sizes of a convolution; None for a linear map.
        in_graph: Whether a compiled graph asks for it. Its user has a compiler, and waits for it.
        step: From one weight row's first gate to the next row's in the stream, where the weight
            is a part of a wider one; 0 where each row follows the one before.
    """

    distribution: Distribution
    shape: tuple[int, int]
    repeat: int = 1
    first: int = 0
    convolution: ConvolutionSizes | None = None
    in_graph: bool = False
    step: int = 0

    @property
    def gates(self) -> tuple[int, int]:
        """The shape of the gates."""
        weight_rows, columns = self.shape
        return weight_rows, columns // self.repeat


class Operands(NamedTuple):
    """The factors of a contraction, in one dtype; the one to compute may be None."""

    log_alpha: Tensor
    """``(O, gates of a weight row)``."""
    a: Tensor | None
    """``(O, I)``."""
    x: Tensor | None
    """``(B, R, I)``, or images ``(B, N, channels, *space)``."""
    g: Tensor | None
    """``(B, R, O)``, or images ``(B, N, O, *windows)``."""


def has_one_vector(contraction: Contraction, operands: Operands) -> bool:
    """Whether the contraction is a linear map with one vector for each key."""
    other = operands.x if operands.g is None else operands.g
    assert other is not None
    return contraction.convolution is None and other.shape[1] == 1


def result_shape(
    kind: Kind, contraction: Contraction, keys: Tensor, operands: Operands
) -> tuple[int, ...]:
    """The shape of a result.

    Args:
        kind: The result.
        contraction: The sizes.
        keys: ``(B, 2)``.
        operands: The factors.
    """
    sizes, (weight_rows, columns) = contraction.convolution, contraction.shape
    if kind == "a":
        return weight_rows, columns
    other = operands.x if kind == "y" else operands.g
    assert other is not None
    leading = keys.shape[0], other.shape[1]
    if sizes is None:
        return *leading, weight_rows if kind == "y" else columns
    if kind == "y":
        return *leading, weight_rows, *sizes.windows
    return *leading, sizes.channels, *sizes.space

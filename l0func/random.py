"""Explicit keys: every draw is a pure function of a key, the same on every road, device and torch
version.

A key is two 64-bit words, ``(seed, offset)``, in an int64 tensor of shape ``(2,)``; a batch of
keys is ``(*batch, 2)``. Element ``i`` of a key's stream is word ``i % 4`` of Philox4x32-10 at
counter ``offset + i // 4`` under ``seed``. A key is either drawn from or folded (split), never
both: the two read the same words.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.context import compiling, known_values
from l0func.internal.untyped import untyped
from l0func.kernels import philox

__all__ = ["fold_in", "key", "normal", "split", "uniform"]

ShapeLike = int | Sequence[int]


def key(seed: int, /) -> Tensor:
    """The key of a seed.

    Args:
        seed: Any integer in [-2⁶³, 2⁶⁴); different seeds give independent streams.

    Returns:
        A key, int64 of shape ``(2,)``.

    Raises:
        ValueError: The seed does not fit 64 bits.

    Example:
        >>> key(7)
        tensor([7, 0])
    """
    return torch.tensor([_signed(_word(seed, "A seed is")), 0], dtype=torch.int64)


def split(key: Tensor, num: int = 2, /) -> Tensor:
    """``num`` independent keys: ``fold_in(key, i)`` for ``i`` from 0 to ``num - 1``.

    Args:
        key: A key, shape ``(2,)``, or a batch of keys, ``(*batch, 2)``.
        num: How many.

    Returns:
        Keys, shape ``(*batch, num, 2)``.

    Raises:
        TypeError: ``key`` is not an int64 tensor.
        ValueError: ``key`` does not end in a dimension of 2, or ``num`` is negative.

    Example:
        >>> split(key(0), 3).shape
        torch.Size([3, 2])
    """
    check_key(key)
    num = operator.index(num)
    if num < 0:
        raise ValueError(f"split gives a number of keys that is at least 0; got {num}.")
    return _fold(key.unsqueeze(-2), torch.arange(num, dtype=torch.int64, device=key.device))


def fold_in(key: Tensor, data: int | Tensor, /) -> Tensor:
    """A new key from a key and a number: words ``4 * data`` to ``4 * data + 3`` of the key's
    stream.

    Args:
        key: A key, shape ``(2,)``, or a batch of keys, ``(*batch, 2)``.
        data: An integer in [-2⁶³, 2⁶⁴), or an integer tensor that broadcasts with the batch. In
            compiled code pass a tensor: every new Python integer compiles again.

    Returns:
        Keys, shape ``(*batch, 2)``, the batch broadcast with ``data``.

    Raises:
        TypeError: ``key`` or ``data`` is not of an integer type.
        ValueError: ``key`` does not end in a dimension of 2, or ``data`` does not fit 64 bits.

    Example:
        >>> step_key = fold_in(key(0), 12)
        >>> step_key.shape
        torch.Size([2])
    """
    check_key(key)
    number: Any = data
    if isinstance(data, Tensor):
        if data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            raise TypeError(
                f"fold_in takes an integer or a tensor of an integer type; got {data.dtype}."
            )
        number = known_values(data) if data.dim() == 0 and data.is_cpu and key.dim() == 1 else None
        if number is None:
            return _fold(key, data.to(device=key.device, dtype=torch.int64))
    word = _word(number, "fold_in takes")
    stream = known_values(key) if key.dim() == 1 else None
    if stream is not None:
        # In Python integers a fold costs microseconds; in tensor operations, hundreds.
        seed, offset = stream
        return torch.tensor(
            philox.folded(seed, offset, word), dtype=torch.int64, device=key.device
        )
    return _fold(key, torch.tensor(_signed(word), dtype=torch.int64, device=key.device))


def uniform(key: Tensor, shape: ShapeLike = (), /) -> Tensor:
    """Uniform draws on the open interval (0, 1): midpoints of a lattice of width 2⁻²³.

    Args:
        key: A key, shape ``(2,)``, or a batch of keys, ``(*batch, 2)``.
        shape: ShapeLike of the draw of each key.

    Returns:
        float32, shape ``(*batch, *shape)``, on the key's device, in [2⁻²⁴, 1 - 2⁻²⁴].

    Raises:
        TypeError: ``key`` is not an int64 tensor.
        ValueError: ``key`` does not end in a dimension of 2, or a size is negative.

    Example:
        >>> uniform(key(0), 3)
        tensor([0.3990, 0.8805, 0.7357])
    """
    check_key(key)
    size = _size(shape)
    return uniforms(key.unsqueeze(-2), [size])[0].reshape((*key.shape[:-1], *size))


def normal(key: Tensor, shape: ShapeLike = (), /) -> Tensor:
    r"""Standard normal draws.

    .. math:: z_{2j} = \sqrt{-2 \log u_{2j}} \cos 2\pi u_{2j+1}, \quad
        z_{2j+1} = \sqrt{-2 \log u_{2j}} \sin 2\pi u_{2j+1}

    with :math:`u` the midpoints of a lattice of width 2⁻³², in float64 and then rounded.

    Source: Box & Muller (1958), "A note on the generation of random normal deviates".

    Args:
        key: A key, shape ``(2,)``, or a batch of keys, ``(*batch, 2)``.
        shape: ShapeLike of the draw of each key.

    Returns:
        float32, shape ``(*batch, *shape)``, on the key's device.

    Raises:
        TypeError: ``key`` is not an int64 tensor.
        ValueError: ``key`` does not end in a dimension of 2, or a size is negative.

    Example:
        >>> normal(key(0), 2)
        tensor([ 0.9911, -0.9247])
    """
    check_key(key)
    size = _size(shape)
    count = math.prod(size)
    word = _words(key, _calls(count))
    u = (word.to(torch.float64) + 0.5) * 2.0**-32
    radius, angle = (-2.0 * u[..., 0::2].log()).sqrt(), 2.0 * math.pi * u[..., 1::2]
    # Rounded from float64, eager and compiled code agree to the bit; float32 code does not.
    pair = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).to(torch.float32)
    return pair.flatten(-3)[..., :count].reshape((*key.shape[:-1], *size))


def uniforms(keys: Tensor, shapes: Sequence[tuple[int, ...]], /) -> list[Tensor]:
    """One call's worth of uniform draws: for each of ``G`` keys a shape.

    Args:
        keys: Keys, shape ``(*batch, G, 2)``.
        shapes: ``G`` shapes.

    Returns:
        ``G`` float32 tensors; the g-th has shape ``(*batch, *shapes[g])`` and the values of
        ``uniform(keys[g], shapes[g])``.
    """
    counts = [math.prod(shape) for shape in shapes]
    calls = tuple(_calls(count) for count in counts)
    batch = keys.shape[:-2]
    if compiling():
        draws = _traced_draws(keys, calls)
    else:
        draws = list(torch.split(_draw(keys, calls, True), list(calls), dim=-2))
    flat = (draw.flatten(-2)[..., :count] for draw, count in zip(draws, counts, strict=True))
    return [draw.reshape((*batch, *shape)) for draw, shape in zip(flat, shapes, strict=True)]


def uniforms_at(key: Tensor, call: Tensor, /) -> Tensor:
    """Uniforms of some calls of a key's stream.

    Args:
        key: A key, shape ``(2,)``.
        call: Numbers of calls, int64 of any shape; call c makes elements 4c to 4c + 3 of
            ``uniform(key)``.

    Returns:
        float32, shape ``(*call, 4)``.
    """
    return _traced_at(key, call) if compiling() else _uniforms_at_call(key, call)


def _uniforms_at_call(key: Tensor, call: Tensor) -> Tensor:
    return philox.unit(torch.stack(philox.call(key[0], key[1], call), dim=-1))


def check_key(key: object, /) -> None:
    """Refuse what is not a key or a batch of keys.

    Raises:
        TypeError: Not an int64 tensor.
        ValueError: The last dimension is not 2.
    """
    if not isinstance(key, Tensor) or key.dtype != torch.int64:
        got = f"a tensor of {key.dtype}" if isinstance(key, Tensor) else type(key).__name__
        raise TypeError(
            f"A key is an int64 tensor of shape (2,); got {got}. Make one with "
            f"l0func.random.key(seed)."
        )
    if key.dim() == 0 or key.shape[-1] != 2:
        raise ValueError(
            f"A key has shape (2,), a batch of keys (..., 2); got {tuple(key.shape)}. "
            "Make keys with l0func.random.key(seed) and l0func.random.split(key, num)."
        )


def _fold(keys: Tensor, data: Tensor) -> Tensor:
    if compiling():
        return _traced_fold(keys, data)
    offset = keys[..., 1] + data
    seed = keys[..., 0] + torch.zeros_like(offset)
    word = _words(torch.stack((seed, offset), dim=-1), 1).squeeze(-2)
    low, high = word[..., 0::2], word[..., 1::2]
    return philox.as_int64(low, high)


def _words(keys: Tensor, calls: int) -> Tensor:
    return (
        _traced_words(keys, calls) if compiling() else _draw(keys.unsqueeze(-2), (calls,), False)
    )


# Up to here the small draws of a step are made together, padded to the longest: to trace one costs
# more than to run it.
_TOGETHER = 1024


def _traced_draws(keys: Tensor, calls: tuple[int, ...]) -> list[Tensor]:
    small = [g for g, n in enumerate(calls) if n <= _TOGETHER]
    # A larger draw stands alone: the compiler fuses it with the mask that is made of it.
    draws = {g: _traced_words(keys[..., g, :], n) for g, n in enumerate(calls) if g not in small}
    if small:
        together = _traced_words(
            torch.stack([keys[..., g, :] for g in small], dim=-2), max(calls[g] for g in small)
        )
        draws |= {g: together[..., i, : calls[g], :] for i, g in enumerate(small)}
    return [philox.unit(draws[g]) for g in range(len(calls))]


# One node of the compiler's graph instead of some two hundred to be traced through Python: the ten
# rounds, unrolled.
@untyped.compiler.allow_in_graph
def _traced_words(keys: Tensor, calls: int) -> Tensor:
    return philox.words(keys, calls)


@untyped.compiler.allow_in_graph
def _traced_at(key: Tensor, call: Tensor) -> Tensor:
    return _uniforms_at_call(key, call)


@untyped.compiler.allow_in_graph
def _traced_fold(keys: Tensor, data: Tensor) -> Tensor:
    return torch.stack(philox.folded(keys[..., 0], keys[..., 1], data), dim=-1)


def _draw(keys: Tensor, calls: tuple[int, ...], as_unit: bool) -> Tensor:
    draw: Any = _Draw
    return draw.apply(keys, calls, as_unit)


class _Draw(Function):
    """Words or uniforms of ``G`` streams, ``(*batch, G, 2)`` to ``(*batch, sum(calls), 4)``.

    A mapped batch of keys is one call.
    """

    @staticmethod
    def forward(*args: Any) -> Tensor:
        keys, calls, as_unit = args
        return philox.eager(keys, calls, as_unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        keys, calls, as_unit = args
        return _draw(keys.movedim(in_dims[0], 0), calls, as_unit), 0


def _calls(count: int) -> int:
    return -(-count // 4)


def _word(number: int, what: str) -> int:
    number = operator.index(number)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(
            f"{what} one 64-bit word, in [-2**63, 2**64); got {number}. Fold larger numbers in "
            f"parts."
        )
    return number


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >= 1 << 63 else number


def _size(shape: ShapeLike) -> tuple[int, ...]:
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(n < 0 for n in size):
        raise ValueError(f"A shape has sizes of at least 0; got {size}.")
    return size

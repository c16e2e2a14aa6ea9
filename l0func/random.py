"""Explicit keys: every draw is a pure function of a key.

A draw is the same under every transform, on every device and in every torch version. A key is two
64-bit words, ``(seed, offset)``, in an int64 tensor with shape ``(2,)``; a batch is
``(*batch, 2)``. Element ``i`` of a key's stream is word ``i % 4`` of Philox4x32-10 at counter
``offset + i // 4`` under ``seed``. A key is either drawn from or folded (split), never both: the
two read the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from l0func.internal.below_vmap import below_vmap
from l0func.internal.context import known_values
from l0func.internal.scalars import integer
from l0func.internal.sharding import is_dtensor
from l0func.kernels import philox
from l0func.kernels.draws import (
    draw_normals,
    draw_uniforms,
    draw_uniforms_at,
    fold_keys,
    split_keys,
)

__all__ = ["fold_in", "key", "normal", "row_keys", "split", "uniform"]

ShapeLike = int | Sequence[int]
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def key(seed: int, /) -> Tensor:
    """The key of a seed.

    Args:
        seed: Any integer in [-2⁶³, 2⁶⁴); different seeds give independent streams.

    Returns:
        A key, int64 with shape ``(2,)``.

    Raises:
        TypeError: The seed is no integer.
        ValueError: The seed does not fit 64 bits.

    Example:
        >>> import l0func as l0
        >>> l0.random.key(7)
        tensor([7, 0])
    """
    return torch.tensor([_signed(_word(seed, "A seed")), 0], dtype=torch.int64)


def split(key: Tensor, num: int = 2, /) -> Tensor:
    """``num`` independent keys: ``fold_in(key, i)`` for ``i`` from 0 to ``num - 1``.

    Args:
        key: A key, shape ``(2,)``, or a batch, ``(*batch, 2)``.
        num: The number of new keys.

    Returns:
        Keys, shape ``(*batch, num, 2)``.

    Raises:
        TypeError: ``key`` is not an int64 tensor.
        ValueError: ``key.shape[-1]`` is not 2, or ``num`` is negative.

    Example:
        >>> import l0func as l0
        >>> l0.random.split(l0.random.key(0), 3).shape
        torch.Size([3, 2])
    """
    check_key(key)
    num = integer(num, "The number of new keys")
    if num < 0:
        raise ValueError(f"split gives a number of keys that is at least 0; got {num}.")
    return below_vmap(partial(_split, num), key)[0]


def _split(num: int, keys: Tensor) -> list[Tensor]:
    return [split_keys(keys, num)]


def fold_in(key: Tensor, data: int | Tensor, /) -> Tensor:
    """A new key from a key and a number.

    It is words ``4 * data`` to ``4 * data + 3`` in the key's stream.

    Args:
        key: A key, shape ``(2,)``, or a batch, ``(*batch, 2)``.
        data: An integer in [-2⁶³, 2⁶⁴), or an integer tensor that broadcasts with the batch. In
            compiled code pass a tensor: every new Python integer compiles again.

    Returns:
        Keys, shape ``(*batch, 2)``, the batch broadcast with ``data``.

    Raises:
        TypeError: ``key`` or ``data`` has no integer type.
        ValueError: ``key.shape[-1]`` is not 2, or ``data`` does not fit 64 bits.

    Example:
        >>> import l0func as l0
        >>> step_key = l0.random.fold_in(l0.random.key(0), 12)
        >>> step_key.shape
        torch.Size([2])
    """
    check_key(key)
    if not isinstance(data, Tensor):
        return _fold_number(key, data)
    if data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
        raise TypeError(
            f"fold_in takes an integer or a tensor of an integer type; got {data.dtype}."
        )
    is_one_number = data.dim() == 0 and data.is_cpu and key.dim() == 1
    number = known_values(data) if is_one_number else None
    if number is not None:
        return _fold_number(key, number)
    return _folded(key, data.to(device=key.device, dtype=torch.int64))


def _folded(key: Tensor, data: Tensor) -> Tensor:
    # Equal ranks: below a vmap both have one more batch in front.
    missing = data.dim() - (key.dim() - 1)
    keys = key.reshape((1,) * missing + key.shape)
    numbers = data.reshape((1,) * -missing + data.shape)
    return below_vmap(_fold, keys, numbers)[0]


def _fold(keys: Tensor, numbers: Tensor) -> list[Tensor]:
    return [fold_keys(keys, numbers)]


def _fold_number(key: Tensor, number: int) -> Tensor:
    word = _word(number, "The number for fold_in")
    key_words = known_values(key) if key.dim() == 1 else None
    if key_words is None:
        # Filled there: a number that is copied to a card waits for it.
        return _folded(key, torch.full((), _signed(word), dtype=torch.int64, device=key.device))
    # In Python integers a fold costs microseconds; in tensor operations, hundreds.
    seed, offset = key_words
    folded = philox.folded(seed, offset, word)
    return torch.tensor(folded, dtype=torch.int64, device=key.device)


def row_keys(key: Tensor, rows: Tensor, /) -> Tensor:
    """The keys of some rows of a batch: ``split(key, n)[rows]`` for any n above all rows.

    A row has the same key in whatever process it is, and beside whatever other rows.

    Args:
        key: The key of the whole batch, shape ``(2,)``.
        rows: The global numbers of the rows, at least 0, an integer tensor of shape ``(B,)``. No
            row is also right: shape ``(0,)``.

    Returns:
        Keys, shape ``(B, 2)``, on the key's device.

    Raises:
        TypeError: ``key`` is not an int64 tensor, or ``rows`` no tensor of an integer type.
        ValueError: ``key`` or ``rows`` has another shape; or a number is known and negative;
            or ``rows`` is sparse, a DTensor, or on the meta device without the key.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> key, rows = l0.random.key(0), torch.tensor([2, 0])
        >>> torch.equal(l0.random.row_keys(key, rows), l0.random.split(key, 3)[rows])
        True
    """
    check_key(key)
    if key.dim() != 1:
        raise ValueError(
            f"The rows of a batch share one key, of shape (2,); got {tuple(key.shape)}."
        )
    check_row_numbers(rows, key)
    return _folded(key, rows.to(device=key.device, dtype=torch.int64))


def check_row_numbers(rows: object, key: Tensor, /) -> None:
    """Refuse anything but the global numbers of rows; :func:`row_keys` says what it raises."""
    if not isinstance(rows, Tensor) or rows.dtype not in _INTEGERS:
        got = f"a tensor of {rows.dtype}" if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(
            f"rows are the global numbers of rows, an int64 tensor of shape (B,); got {got}."
        )
    if rows.dim() != 1:
        raise ValueError(
            f"rows has a number for every row, shape (B,); got shape {tuple(rows.shape)}."
        )
    if rows.is_meta and not key.is_meta:
        raise ValueError(
            f"rows is on the meta device, which has no numbers, and the key is on {key.device}. "
            "Make rows on a device of its own, such as the CPU."
        )
    if rows.layout != torch.strided or is_dtensor(rows):
        kind = "a DTensor" if is_dtensor(rows) else str(rows.layout)
        way = "l0func.gather(rows)" if is_dtensor(rows) else "rows.to_dense()"
        raise ValueError(f"rows is a plain dense tensor; got {kind}. Pass {way}.")
    # A card would have to wait for the values.
    known = known_values(rows) if rows.is_cpu else None
    if known and min(known) < 0:
        raise ValueError(f"rows are numbered from 0; got {min(known)}.")


def uniform(key: Tensor, shape: ShapeLike = (), /) -> Tensor:
    """Uniform draws on the open interval (0, 1).

    They are lattice midpoints, 2⁻²³ apart.

    Args:
        key: A key, shape ``(2,)``, or a batch, ``(*batch, 2)``.
        shape: The shape that each key draws.

    Returns:
        float32, shape ``(*batch, *shape)``, on the key's device, in [2⁻²⁴, 1 - 2⁻²⁴].

    Raises:
        TypeError: ``key`` is not an int64 tensor.
        ValueError: ``key.shape[-1]`` is not 2, or a size is negative.

    Example:
        >>> import l0func as l0
        >>> l0.random.uniform(l0.random.key(0), 3)
        tensor([0.3990, 0.8805, 0.7357])
    """
    check_key(key)
    size = _size(shape)
    return below_vmap(partial(_uniforms, [size]), key.unsqueeze(-2))[0]


def normal(key: Tensor, shape: ShapeLike = (), /) -> Tensor:
    r"""Standard normal draws.

    .. math:: z_{2j} = \sqrt{-2 \log u_{2j}} \cos 2\pi u_{2j+1}, \quad
        z_{2j+1} = \sqrt{-2 \log u_{2j}} \sin 2\pi u_{2j+1}

    where :math:`u` are uniform lattice midpoints, 2⁻³² apart. The computation is in float64
    and rounds once.

    Source: Box & Muller (1958), "A note on the generation of random normal deviates".

    Args:
        key: A key, shape ``(2,)``, or a batch, ``(*batch, 2)``.
        shape: The shape that each key draws.

    Returns:
        float32, shape ``(*batch, *shape)``, on the key's device.

    Raises:
        TypeError: ``key`` is not an int64 tensor.
        ValueError: ``key.shape[-1]`` is not 2, or a size is negative.

    Example:
        >>> import l0func as l0
        >>> l0.random.normal(l0.random.key(0), 2)
        tensor([ 0.9911, -0.9247])
    """
    check_key(key)
    size = _size(shape)
    return below_vmap(partial(_normals, size), key)[0]


def _normals(size: tuple[int, ...], key: Tensor) -> list[Tensor]:
    return [_shaped(draw_normals(key, math.prod(size)), key, size)]


def uniforms(keys: Tensor, shapes: Sequence[tuple[int, ...]], /) -> list[Tensor]:
    """Uniform draws in several shapes at once, each from its own key.

    Args:
        keys: Keys, shape ``(*batch, G, 2)``.
        shapes: ``G`` shapes.

    Returns:
        ``G`` float32 tensors; the g-th has shape ``(*batch, *shapes[g])`` and equals
        ``uniform(keys[g], shapes[g])``.
    """
    return list(below_vmap(partial(_uniforms, shapes), keys))


def _uniforms(shapes: Sequence[tuple[int, ...]], keys: Tensor) -> list[Tensor]:
    counts = tuple([math.prod(shape) for shape in shapes])
    batch = keys.shape[:-2]
    draws = draw_uniforms(keys, counts)
    return [u.reshape((*batch, *shape)) for u, shape in zip(draws, shapes, strict=True)]


def uniform_from(keys: Tensor, first: int, shape: Sequence[int], /) -> Tensor:
    """Uniforms from element number ``first`` in each key's stream on.

    Args:
        keys: Keys, shape ``(*batch, 2)``.
        first: The position of the first element.
        shape: The shape that each key draws.

    Returns:
        float32, shape ``(*batch, *shape)``.
    """
    call, skip = divmod(first, 4)
    starts = torch.stack((keys[..., 0], keys[..., 1] + call), dim=-1)
    count = math.prod(shape)
    [draw] = uniforms(starts.unsqueeze(-2), [(skip + count,)])
    return draw[..., skip:].reshape((*keys.shape[:-1], *shape))


def uniforms_at(key: Tensor, call: Tensor, /) -> Tensor:
    """Uniforms from anywhere in a key's stream, four at a time.

    Args:
        key: A key, shape ``(2,)``.
        call: Numbers of Philox calls, int64 in any shape. Call c makes elements 4c to 4c + 3 of
            the key's uniforms.

    Returns:
        float32, shape ``(*call, 4)``.
    """
    return draw_uniforms_at(key, call)


def check_key(key: object, /) -> None:
    """Refuse anything but keys.

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


def _word(number: int, name: str) -> int:
    if isinstance(number, bool):
        raise TypeError(f"{name} is an integer; got {number}.")
    number = integer(number, name)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(
            f"{name} is one 64-bit word, in [-2**63, 2**64); got {number}. Fold larger numbers in "
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


def _shaped(draw: Tensor, key: Tensor, size: tuple[int, ...]) -> Tensor:
    # The vector from one key has its shape; a reshape would cost a tenth of a small draw.
    return draw if key.dim() == len(size) == 1 else draw.reshape((*key.shape[:-1], *size))

"""The 32-bit words that a training reads from its tree of keys, and streams that are at fault.

Each generator yields little-endian words, some hundred thousand at a time, for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import l0func as l0
from l0func import random
from l0func.kernels import philox

LAYERS = 4
ROWS = 256
CALLS = (16, 64)
"""Calls of a row's key in even and odd steps: 64 and 256 words."""
CALLS_OF_ALL_ROWS = 4096

Words = Iterator[np.ndarray]
Fold = Callable[[Tensor, Tensor], Tensor]


def words_of(keys: Tensor, calls: int) -> Tensor:
    """The words of each key's stream, int64 in pairs of words, shape ``(*batch, calls, 2)``.

    The keys of a split are the words of a stream, four a key; draws read the same words.
    """
    return random.split(keys, calls)


def tree(seed: int, fold: Fold = random.fold_in) -> Words:
    """Words of a training: step -> layer -> one stream for all rows, and one for each row.

    In a layer with an even number a row's words come one after another. In the others they go
    across the rows: the first words of every row, then the next.
    """
    root = random.key(seed)
    layers, rows = torch.arange(LAYERS), torch.arange(ROWS)
    step = 0
    while True:
        step_key = fold(root, torch.tensor(step))
        layer_keys = fold(step_key, layers)
        row_keys = fold(layer_keys[:, None], rows)
        own = words_of(row_keys, CALLS[step % 2])
        for layer in range(LAYERS):
            of_all = words_of(random.split(layer_keys[layer], ROWS + 1)[-1], CALLS_OF_ALL_ROWS)
            of_rows = own[layer] if layer % 2 == 0 else own[layer].transpose(0, 1)
            yield _as_words(of_all)
            yield _as_words(of_rows)
        step += 1


def _as_words(pairs: Tensor) -> np.ndarray:
    return pairs.contiguous().numpy().view("<u4").ravel()


def counter(seed: int) -> Words:
    """A counter: a generator that every test should fail."""
    start = seed % 2**32
    while True:
        yield np.arange(start, start + 2**18).astype("<u4")
        start += 2**18


def rounds(seed: int, number: int) -> Words:
    """The tree of keys with fewer rounds of Philox than its ten."""
    l0.use_kernel("eager")
    philox.ROUNDS = number
    return tree(seed)


def overlapping(seed: int) -> Words:
    """The tree with all ten rounds, but a fold that only moves a stream on by one call."""

    def fold(key: Tensor, data: Tensor) -> Tensor:
        return torch.stack(torch.broadcast_tensors(key[..., 0], key[..., 1] + data), dim=-1)

    return tree(seed, fold)


GENERATORS: dict[str, Callable[[int], Words]] = {
    "tree": tree,
    "counter": counter,
    "one-round": lambda seed: rounds(seed, 1),
    "overlapping": overlapping,
}


def check_words() -> None:
    """Assert that draws read the words that the tree yields."""
    keys = random.split(random.key(3), 5)
    words = torch.from_numpy(_as_words(words_of(keys, 2)).astype(np.int64)).view(5, 8)
    assert torch.equal(random.uniform(keys, 8), philox.unit(words))
    assert torch.equal(random.split(keys, 2), random.fold_in(keys[:, None], torch.arange(2)))

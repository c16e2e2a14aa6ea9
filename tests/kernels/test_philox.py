"""Philox: the published known answers, and the same bits from numpy, tensors and blocks."""

from __future__ import annotations

import oracles
import pytest
import torch

from l0func import random
from l0func.kernels import philox
from l0func.kernels.eager import draws_by_torch, eager_draws
from l0func.kernels.numpy_blocks import BLOCK


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, words):
    expected = [int(word, 16) for word in words.split()]
    assert list(philox.philox(counter, key)) == expected
    tensors = philox.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert [int(word) for word in tensors] == expected
    assert oracles.philox(list(counter), list(key)) == expected


@pytest.mark.parametrize("n", [1, 4, BLOCK * 4 - 1, BLOCK * 6 + 3, 200_001])
def test_blocks_of_numpy_and_of_tensors_and_no_blocks_give_the_same_bits(n):
    streams, calls = random.split(random.key(2), 4), (2, -(-n // 4), 3, 1)
    whole = torch.cat([philox.words(stream, c) for stream, c in zip(streams, calls, strict=True)])
    assert torch.equal(eager_draws(streams, calls, False), whole)
    assert torch.equal(draws_by_torch(streams, calls, False), whole)
    assert torch.equal(eager_draws(streams, calls, True), philox.unit(whole))
    assert torch.equal(draws_by_torch(streams, calls, True), philox.unit(whole))

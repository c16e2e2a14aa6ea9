"""Philox: the published known answers, from integers, tensors and a twin."""

from __future__ import annotations

from itertools import islice

import oracles
import pytest
import torch

from l0func.kernels import philox


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


STREAMS = [(0, 0), (7, 2**32 - 2), (-1, -1), (2**63 - 1, -(2**63))]


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_the_words_of_many_streams_are_those_of_each(calls):
    streams = torch.tensor(STREAMS, dtype=torch.int64).reshape(2, 2, 2)
    expected = [list(islice(oracles.words(stream), 4 * calls)) for stream in STREAMS]
    found = philox.words(streams, calls)
    assert found.shape == (2, 2, calls, 4)
    assert found.reshape(4, 4 * calls).tolist() == expected

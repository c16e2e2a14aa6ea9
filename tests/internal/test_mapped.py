"""Pytrees with rows: cut into chunks for a map, and joined again."""

from __future__ import annotations

import pytest
import torch

from l0func.internal.mapped import join_chunks, split_chunks


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, None])
def test_joined_chunks_are_the_tensors_that_were_split(size):
    x, y = torch.arange(10.0).reshape(2, 5), torch.arange(5.0)
    chunks = split_chunks([x, y], [1, 0], size)
    assert all(part.shape[1] == len(rest) <= (size or 5) for part, rest in chunks)
    whole = join_chunks([{"x": part.T, "rest": (rest, None)} for part, rest in chunks])
    assert torch.equal(whole["x"].T, x)
    assert torch.equal(whole["rest"][0], y)
    assert whole["rest"][1] is None


@pytest.mark.parametrize("size", [4, 9, None])
def test_one_chunk_of_all_rows_is_the_very_tensor(size):
    x = torch.ones(4, 2)
    [[only]] = split_chunks([x], [0], size)
    assert only is x
    assert join_chunks([x]) is x

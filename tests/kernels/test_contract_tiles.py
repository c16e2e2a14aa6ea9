"""A contraction in machine code does not depend on threads, strides or the other results."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from contractions import operands

import l0func as l0
from l0func import random
from l0func.kernels.by_torch import contract as contract_by_torch
from l0func.kernels.contraction import Contraction, Operands, Output
from l0func.kernels.convolution import ConvolutionSizes
from l0func.kernels.loading import load_kernels

by_numba = load_kernels("numba").kernels
pytestmark = pytest.mark.skipif(by_numba is None, reason="numba is not installed")
ALL = [Output(kind, order) for kind, order in product("yxa", (0, 1))]
CASES = [
    (Contraction(l0.HardConcrete(), (97, 301)), 300, 1),
    (Contraction(l0.HardConcrete(), (10, 77), 1, 3), 3000, 1),
    (Contraction(l0.HardConcrete(), (97, 301)), 100, 2),
    (
        Contraction(
            l0.HardConcrete(),
            (8, 36),
            convolution=ConvolutionSizes(
                4, (1, 6, 6), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1
            ),
        ),
        10000,
        1,
    ),
]


@pytest.mark.parametrize(("contraction", "batch", "vectors"), CASES)
def test_one_two_and_three_threads_give_the_same_bits(contraction, batch, vectors):
    keys = random.split(random.key(0), batch)
    given = operands(contraction, batch, vectors, torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(by_numba.contract(contraction, ALL, keys, given))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def strided(given: Operands) -> Operands:
    """The same factors in memory with gaps and in another order."""
    la, a, x, g = given
    return Operands(
        torch.stack((la, la), -1)[..., 0],
        a.t().contiguous().t(),
        x.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack((g, g), -1)[..., 1],
    )


@pytest.mark.parametrize("vectors", [1, 2])
def test_factors_with_gaps_in_memory_give_the_same_bits(vectors):
    contraction = Contraction(l0.HardConcrete(), (5, 7))
    keys = random.split(random.key(0), 3)
    given = operands(contraction, 3, vectors, torch.float32)
    ours = by_numba.contract(contraction, ALL, keys, given)
    gaps = by_numba.contract(contraction, ALL, keys.flip(0).flip(0), strided(given))
    assert all(torch.equal(a, b) for a, b in zip(ours, gaps, strict=True))


@pytest.mark.parametrize("vectors", [1, 2])
def test_expanded_factors_are_those_laid_out(vectors):
    contraction = Contraction(l0.HardConcrete(), (5, 7))
    keys = random.split(random.key(0), 1).expand(3, 2)
    given = operands(contraction, 3, vectors, torch.float32)
    wide = given._replace(x=given.x[:1].expand(3, -1, -1), g=given.g[:, :, :1].expand(-1, -1, 5))
    laid_out = Operands(*(t.clone() for t in wide))
    ours = by_numba.contract(contraction, ALL, keys, wide)
    theirs = by_numba.contract(contraction, ALL, keys.clone(), laid_out)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("vectors", [1, 3])
def test_several_results_are_those_computed_alone(vectors):
    contraction = Contraction(l0.HardConcrete(), (20, 33), 3, 1)
    keys = random.split(random.key(0), 5)
    given = operands(contraction, 5, vectors, torch.float32)
    together = by_numba.contract(contraction, ALL, keys, given)
    for output, result in zip(ALL, together, strict=True):
        [alone] = by_numba.contract(contraction, [output], keys, given)
        assert torch.equal(result, alone)


@pytest.mark.parametrize("order", [0, 1])
def test_masks_have_the_zeros_and_ones_of_the_torch_road(order):
    # Unit factors show single masks: the sum for one example is its mask.
    contraction, draws = Contraction(l0.HardConcrete(), (1000, 1000)), 1e6
    given = operands(contraction, 1, 1, torch.float32)
    units = given._replace(x=torch.ones(1, 1, 1000), g=torch.ones(1, 1, 1000))
    keys, outputs = random.split(random.key(0), 1), [Output("a", order)]
    [ours] = by_numba.contract(contraction, outputs, keys, units)
    [theirs] = contract_by_torch(contraction, outputs, keys, units)
    for value in (0.0, 1.0):
        differing = ((ours == value) != (theirs == value)).sum().item()
        assert differing <= max(1, draws / 1e7)


def test_the_results_do_not_change_their_factors():
    contraction = Contraction(l0.HardConcrete(), (20, 33))
    keys = random.split(random.key(0), 5)
    given = operands(contraction, 5, 1, torch.float32)
    before = [t.clone() for t in given]
    by_numba.contract(contraction, ALL, keys, given)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))

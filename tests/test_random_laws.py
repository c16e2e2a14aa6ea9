"""Randomness of keys: uniformity, correlations, avalanche, and the trees of split and fold_in.

Keys are fixed, so a test passes always or never. If the draws were ideal, the chance that any test
here failed for another choice of keys would be at most 1e-6: each statistic has its share of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from l0func import random

pytestmark = pytest.mark.on_cpu
ALARMS = 1e-6
# No more statistics than this are computed in this file, in the long form too.
STATISTICS = 5000
BOUND = -NormalDist().inv_cdf(ALARMS / STATISTICS / 2)
"""The bound in standard deviations: 6.5."""

SIZES = [2**18, pytest.param(2**25, marks=pytest.mark.slow)]
SEEDS = (0, 1, -1, 2**63 - 1)


def chi2_deviation(counts: Tensor, expected: Tensor) -> float:
    """A chi-squared statistic in standard deviations, by Wilson and Hilferty's cube root."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.numel() - 1
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def assert_uniform(values: Tensor, cells: int) -> None:
    counts = torch.bincount(values.flatten(), minlength=cells).double()
    assert counts.numel() == cells
    expected = torch.full_like(counts, values.numel() / cells)
    assert abs(chi2_deviation(counts, expected)) < BOUND


def cells_of(u: Tensor, cells: int) -> Tensor:
    return (u.double() * cells).long()


def correlation(a: Tensor, b: Tensor) -> float:
    """The correlation of uniforms, in standard deviations."""
    a, b = a.double() - 0.5, b.double() - 0.5
    return float((a * b).mean()) * 12 * math.sqrt(a.numel())


def tree_of_keys(kind: str, number: int) -> Tensor:
    """Many keys, by one of the ways in which users make them."""
    root = random.key(17)
    if kind == "split":
        return random.split(root, number)
    if kind == "fold_in":
        return random.fold_in(root, torch.arange(number))
    if kind == "seeds":
        return torch.stack([torch.arange(number), torch.zeros(number, dtype=torch.int64)], 1)
    side = math.isqrt(number)
    if kind == "split of split":
        return random.split(random.split(root, side), side).flatten(0, 1)
    if kind == "chain":
        keys = [root]
        for i in range(number - 1):
            keys.append(random.fold_in(keys[-1], i % 2))
        return torch.stack(keys)
    assert kind == "split of fold_in"
    return random.split(random.fold_in(root, torch.arange(side)), side).flatten(0, 1)


TREES = ["split", "fold_in", "seeds", "split of split", "split of fold_in"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", SIZES)
def test_one_stream_is_uniform_in_cells_pairs_and_low_bits(seed, n):
    u = random.uniform(random.key(seed), n)
    assert_uniform(cells_of(u, 1024), 1024)
    pairs = cells_of(u, 32).view(-1, 2)
    assert_uniform(pairs[:, 0] * 32 + pairs[:, 1], 1024)
    blocks = cells_of(u, 8).view(-1, 4)
    assert_uniform((blocks * torch.tensor([512, 64, 8, 1])).sum(1), 4096)
    # A uniform has 23 bits; the lowest eight.
    assert_uniform((u.double() * 2**23).long() % 256, 256)


@pytest.mark.parametrize("n", SIZES)
def test_one_stream_has_no_serial_correlation(n):
    u = random.uniform(random.key(5), n)
    for lag in (*range(1, 17), 31, 32, 64, 128, 256, 1000, 4096):
        assert abs(correlation(u[lag:], u[:-lag])) < BOUND, lag


@pytest.mark.parametrize("kind", [*TREES, "chain"])
def test_the_first_draws_of_a_tree_of_keys_are_uniform_and_uncorrelated(kind):
    keys = tree_of_keys(kind, 1024 if kind == "chain" else 2**14)
    u = random.uniform(keys, 8)
    assert_uniform(cells_of(u, 64), 64)
    for place in range(8):
        assert_uniform(cells_of(u[:, place], 64), 64)
    for lag in (1, 2, 3, 4, 64, 128):
        assert abs(correlation(u[lag:], u[:-lag])) < BOUND, lag
        assert abs(correlation(u[lag:, 1:], u[:-lag, :-1])) < BOUND, lag
    assert abs(correlation(u[:, 0], u[:, 7])) < BOUND


NUMBERS = pytest.mark.parametrize("n", [2**14, pytest.param(2**20, marks=pytest.mark.slow)])


@pytest.mark.parametrize("kind", TREES)
@NUMBERS
def test_the_draws_of_two_keys_of_a_tree_are_independent(kind, n):
    u = random.uniform(tree_of_keys(kind, n), 4)
    cells = cells_of(u, 16)
    side = math.isqrt(n)
    # Neighbours, the same place in the next branch, and the other end of the tree.
    for lag in (1, 2, side, n // 2):
        for one, other in ((0, 0), (3, 0), (1, 2)):
            assert_uniform(cells[lag:, one] * 16 + cells[:-lag, other], 256)


@pytest.mark.parametrize("kind", [kind for kind in TREES if kind != "seeds"])
@NUMBERS
def test_the_bytes_of_the_keys_of_a_tree_are_uniform(kind, n):
    keys = tree_of_keys(kind, n)
    for byte in range(8):
        for word in range(2):
            assert_uniform((keys[:, word] >> 8 * byte) & 255, 256)


@NUMBERS
def test_the_draws_of_a_child_are_independent_of_its_parents_words(n):
    parents = random.split(random.key(29), n)
    own = cells_of(random.uniform(parents, 4), 16)
    for child in (random.fold_in(parents, 0), random.split(parents, 3)[:, 2]):
        drawn = cells_of(random.uniform(child, 4), 16)
        for place in range(4):
            assert_uniform(own[:, place] * 16 + drawn[:, place], 256)


@pytest.mark.parametrize("kind", [*TREES, "chain"])
def test_no_two_keys_of_a_tree_are_equal(kind):
    keys = tree_of_keys(kind, 1024 if kind == "chain" else 2**14)
    assert len({tuple(key) for key in keys.tolist()}) == len(keys)


def test_streams_of_parent_child_and_siblings_are_uncorrelated():
    parent = random.key(23)
    first, second = random.split(parent, 2)
    family = [parent, first, second, random.split(first, 2)[0], random.fold_in(parent, 7)]
    family += [random.key(24), torch.tensor([23, 1]), torch.tensor([24, 2**40])]
    streams = [random.uniform(key, 2**16) for key in family]
    for i, one in enumerate(streams):
        for j in range(i):
            # The stream of key (a, b + 1) begins four draws later by design.
            shift = 4 if (i, j) == (6, 0) else 0
            assert abs(correlation(one, streams[j])) < BOUND, (i, j)
            shifted = torch.equal(one[: -4 or None], streams[j][4:])
            assert shifted == bool(shift), (i, j)


def bits_of(words: Tensor) -> Tensor:
    """The bits of int64 words, in a new last dimension."""
    return (words[..., None] >> torch.arange(64)) & 1


def flipped_words(keys: Tensor) -> Tensor:
    """For each bit of a key, the keys with this bit flipped; shape (128, keys, 2)."""
    ones = torch.ones(1, dtype=torch.int64) << torch.arange(64)
    zeros = torch.zeros(64, dtype=torch.int64)
    masks = torch.cat([torch.stack([ones, zeros], 1), torch.stack([zeros, ones], 1)])
    return keys ^ masks[:, None]


KEYS = pytest.mark.parametrize("n", [256, pytest.param(2**14, marks=pytest.mark.slow)])


def flips(function: Callable[[Tensor], Tensor], keys: Tensor) -> Tensor:
    """How many keys change a bit of a function's words, for each bit of a key: (128, ..., 64)."""
    # In blocks of keys: all bits of all keys are gigabytes.
    return sum(_flips(function, block) for block in keys.split(256))


def _flips(function: Callable[[Tensor], Tensor], keys: Tensor) -> Tensor:
    return bits_of(function(keys) ^ function(flipped_words(keys))).sum(1)


@KEYS
def test_every_bit_of_a_key_flips_half_of_the_bits_of_its_children(n):
    keys = random.split(random.key(31), n)
    for child in (lambda k: random.fold_in(k, 3), lambda k: random.split(k, 2)[..., 1, :]):
        shares = flips(child, keys).double() / n
        # Over all bits of the children, for each bit of the key.
        over_bits = shares.flatten(1).mean(1)
        assert ((over_bits - 0.5).abs() * 2 * math.sqrt(n * 128) < BOUND).all()
        # For each pair of bits: 16,384 numbers, so one statistic of all of them.
        found = float((((shares - 0.5) * 2) ** 2 * n).sum())
        assert abs(found - shares.numel()) / math.sqrt(2 * shares.numel()) < BOUND


@KEYS
def test_every_bit_of_a_key_flips_half_of_the_bits_of_its_draws(n):
    keys = random.split(random.key(37), n)

    def words(k: Tensor) -> Tensor:
        return (random.uniform(k, 4).double() * 2**23).long()

    shares = flips(words, keys)[..., :23].double() / n
    over_bits = shares.flatten(1).mean(1)
    assert ((over_bits - 0.5).abs() * 2 * math.sqrt(n * 92) < BOUND).all()


def test_every_bit_of_the_number_that_is_folded_in_flips_half_of_the_bits():
    keys = random.split(random.key(41), 256)
    own = random.fold_in(keys, 5)
    for bit in range(63):
        changed = bits_of(own ^ random.fold_in(keys, 5 ^ (1 << bit))).double()
        assert abs(float(changed.mean()) - 0.5) * 2 * math.sqrt(changed.numel()) < BOUND, bit


@pytest.mark.parametrize("n", SIZES)
def test_normals_have_the_right_number_in_each_of_64_cells(n):
    z = random.normal(random.key(43), n).double()
    edges = [NormalDist().inv_cdf(i / 64) for i in range(1, 64)]
    cells = torch.bucketize(z, torch.tensor(edges, dtype=torch.float64))
    assert_uniform(cells, 64)
    pairs = cells.view(-1, 2) // 4
    assert_uniform(pairs[:, 0] * 16 + pairs[:, 1], 256)


def test_a_stream_that_is_a_little_off_would_be_found():
    u = random.uniform(random.key(0), 2**18)
    with pytest.raises(AssertionError):
        assert_uniform(cells_of(u**1.05, 1024), 1024)
    mixed = 0.97 * u[1:] + 0.03 * u[:-1]
    assert abs(correlation(mixed, u[:-1])) > BOUND

"""Every backend's contraction, against products with masks that are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product, starmap
from typing import Any

import pytest
import torch
from contractions import by_hand, masks, operands, without
from sampled import one_in, sampled
from torch import Tensor

import l0func as l0
from l0func import random
from l0func.kernels import by_torch
from l0func.kernels.contraction import Contraction, Output
from l0func.kernels.convolution import ConvolutionSizes
from l0func.kernels.loading import load_kernels


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A clipped logistic variable, of a user."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: Any, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


by_numba = load_kernels("numba").kernels
BACKENDS = [by_torch] if by_numba is None else [by_torch, by_numba]
DISTRIBUTIONS = [
    l0.HardConcrete(),
    l0.HardConcrete(0.5),
    l0.GaussianGate(),
    l0.HardKuma(),
    LogisticGate(),
]
CONVOLUTIONS = [
    ConvolutionSizes(2, (1, 6, 5), (1, 2, 3), (1, 2, 1), (0, 1, 0), (1, 1, 2), 1),
    ConvolutionSizes(4, (1, 1, 9), (1, 1, 3), (1, 1, 2), (0, 0, 1), (1, 1, 2), 2),
    ConvolutionSizes(2, (4, 5, 4), (2, 3, 2), (2, 1, 1), (1, 0, 1), (2, 1, 1), 1),
    ConvolutionSizes(4, (1, 4, 4), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 4),
    # One window: few patches.
    ConvolutionSizes(2, (1, 5, 4), (1, 3, 2), (1, 1, 4), (0, 0, 1), (1, 2, 2), 1),
]
SIZES = [
    # shape, batch, vectors, repeat, first
    ((4, 8), 3, 1, 1, 0),
    ((5, 7), 3, 1, 1, 6),
    ((5, 7), 3, 4, 1, 1),
    ((1, 1), 1, 1, 1, 3),
    ((3, 12), 2, 1, 4, 5),
    ((3, 12), 2, 2, 12, 2),
    ((20, 3), 130, 1, 1, 0),
    ((2, 700), 3, 1, 1, 1),
    ((6, 900), 2, 3, 3, 7),
    ((2, 2500), 2, 1, 1, 3),
    ((2, 2100), 2, 1, 3, 1),
    ((2, 3000), 2, 1, 1500, 2),
    ((3, 5), 2, 1, 1, 2**33 + 3),
    ((3, 5), 2, 2, 1, 2**33 + 2),
    ((0, 5), 2, 1, 1, 0),
    ((5, 0), 2, 1, 1, 0),
    ((5, 4), 0, 1, 1, 0),
    ((5, 4), 2, 0, 1, 0),
    ((0, 5), 2, 3, 1, 0),
    ((5, 0), 2, 3, 1, 0),
]

STEPS = [
    # shape, repeat, step
    ((4, 8), 1, 16),
    ((5, 7), 1, 9),
    ((3, 12), 4, 5),
    ((6, 900), 3, 601),
    ((2, 2500), 1, 5000),
    ((1, 3), 1, 12),
    ((0, 5), 1, 7),
    ((5, 0), 1, 7),
]


def each(kinds: str = "yxa", orders: tuple[int, ...] = (0, 1)) -> list[Output]:
    return [Output(kind, order) for kind, order in product(kinds, orders)]


def compare(
    backend: Any, contraction: Contraction, batch: int, vectors: int, outputs: list[Output]
) -> None:
    """Hold a backend to the masks laid out, in both dtypes and also for all outputs at once."""
    keys = random.split(random.key(2), batch)
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        given = operands(contraction, batch, vectors, dtype)
        together = backend.contract(contraction, outputs, keys, given)
        orders = {output.order for output in outputs}
        z = {order: masks(contraction, order, keys, given.log_alpha) for order in orders}
        for output, ours in zip(outputs, together, strict=True):
            theirs = by_hand(contraction, output, z[output.order], given)
            [alone] = backend.contract(contraction, [output], keys, without(given, output.kind))
            torch.testing.assert_close(ours, theirs, rtol=error, atol=error)
            torch.testing.assert_close(alone, theirs, rtol=error, atol=error)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize(
    ("shape", "batch", "vectors", "repeat", "first"),
    sampled(starmap(pytest.param, SIZES), one_in(4)),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_linear_map_is_the_einsum_over_its_masks(
    backend, shape, batch, vectors, repeat, first, distribution
):
    contraction = Contraction(distribution, shape, repeat, first)
    compare(backend, contraction, batch, vectors, each())


@pytest.mark.parametrize("distribution", [DISTRIBUTIONS[0], DISTRIBUTIONS[-1]], ids=repr)
@pytest.mark.parametrize(
    ("shape", "repeat", "step"), sampled(starmap(pytest.param, STEPS), one_in(2))
)
@pytest.mark.parametrize(("batch", "vectors", "first"), [(3, 1, 6), (2, 4, 4), (130, 1, 1)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_of_a_weight_has_the_masks_of_its_columns(
    backend, batch, vectors, first, shape, repeat, step, distribution
):
    contraction = Contraction(distribution, shape, repeat, first, step=step)
    compare(backend, contraction, batch, vectors, each())


@pytest.mark.parametrize("distribution", [DISTRIBUTIONS[0], DISTRIBUTIONS[-1]], ids=repr)
@pytest.mark.parametrize("sizes", sampled(CONVOLUTIONS, one_in(2)), ids=str)
@pytest.mark.parametrize(
    ("batch", "images", "first"), [(3, 1, 0), (2, 3, 5), (0, 1, 0), (2, 0, 0)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_convolution_is_each_example_s_own(backend, batch, images, first, sizes, distribution):
    inner = sizes.channels // sizes.groups
    window = inner * sizes.kernel[0] * sizes.kernel[1] * sizes.kernel[2]
    for repeat in (1, window // inner, window):
        contraction = Contraction(distribution, (4, window), repeat, first, sizes)
        compare(backend, contraction, batch, images, each())

"""numba's vocabulary, over the whole range of floats, against torch in float64."""

from __future__ import annotations

import math

import pytest
import torch

from l0func.kernels import vocabulary

np = pytest.importorskip("numpy")
numba = pytest.importorskip("numba")
binding = pytest.importorskip("l0func.kernels.by_numba.binding")

OF_TORCH = {
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sqrt": torch.sqrt,
    "ndtr": vocabulary.ndtr,
    "ndtri": torch.special.ndtri,
}
NEAR = np.concatenate(
    [
        np.linspace(0.99, 1.01, 20_001),
        np.linspace(-1, 1, 40_001),
        np.linspace(-90, 90, 40_001),
        1 - 2.0**-24 * np.arange(1, 1000),
        2.0**-24 * (2 * np.arange(1, 10_000) + 1),
        [0.0, -0.0, math.inf, -math.inf, math.nan],
    ]
)


def computed(name, real, x):
    """A function of the vocabulary at every x."""
    function = binding.bound(binding.word(real, name), real)

    @numba.njit(error_model="numpy")
    def loop(x, y):
        for i in range(x.shape[0]):
            y[i] = function(x[i])

    y = np.empty_like(x)
    loop(x, y)
    return y


def units(found, wanted, exact):
    """How many units in the last place each number is off; 0 where both are NaN or infinite."""
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(all="ignore"):
        off = np.abs(found.astype(np.float64) - exact) / np.spacing(np.abs(wanted))
    off = np.where(same, 0.0, off)
    return np.where(np.isnan(off), math.inf, off)


def assert_within(name, x, found, wanted, exact, limit):
    off = units(found, wanted, exact)
    worst = int(off.argmax())
    assert off[worst] <= limit, f"{name}({x[worst]!r}) = {found[worst]!r}, not {wanted[worst]!r}"


@pytest.mark.parametrize("name", OF_TORCH)
def test_float32_is_within_four_units_of_torch_in_float64_rounded(name):
    # Every sign, exponent and 2⁻¹⁰ of the mantissas: infinities, NaNs and denormals are there.
    bits = np.arange(0, 2**32, 8191, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits.view(np.float32), NEAR.astype(np.float32)])
    with np.errstate(all="ignore"):
        exact = OF_TORCH[name](torch.from_numpy(x.astype(np.float64))).numpy()
        wanted = exact.astype(np.float32)
    assert_within(name, x, computed(name, np.float32, x), wanted, exact, 4)


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "expm1", "sqrt"])
def test_float64_is_within_four_units_of_torch(name):
    bits = np.arange(0, 2**64 - 2**45, 2**45, dtype=np.uint64)
    x = np.concatenate([bits.view(np.float64), NEAR])
    wanted = OF_TORCH[name](torch.from_numpy(x)).numpy()
    if name == "log1p":
        # That of torch 2.4 is infinite beyond 1e307.
        with np.errstate(all="ignore"):
            wanted = np.where(x > 1e300, np.log1p(x), wanted)
    assert_within(name, x, computed(name, np.float64, x), wanted, wanted, 4)


@pytest.mark.parametrize(("name", "low"), [("ndtr", -37.0), ("ndtri", 1e-300)])
def test_the_normal_functions_in_float64_have_the_digits_of_torchs(name, low):
    # torch's own are a hundred units off in the tails.
    x = np.concatenate([NEAR, np.geomspace(1e-300, 1, 20_001), np.linspace(-40, 40, 20_001)])
    x = x[~(x < low)]
    wanted = OF_TORCH[name](torch.from_numpy(x)).numpy()
    found = computed(name, np.float64, x)
    np.testing.assert_allclose(found, wanted, rtol=2e-13, atol=0)

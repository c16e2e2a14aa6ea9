"""A slow, obvious twin of what the library computes fast: plain Python, one number at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np

import l0func as l0
from l0func.distributions import GateDistribution

# Random numbers, from the definition of Philox in unbounded integers.


def philox(counter: list[int], key: list[int]) -> list[int]:
    for _ in range(10):
        wide0, wide1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (wide1 // 2**32) ^ counter[1] ^ key[0],
            wide1 % 2**32,
            (wide0 // 2**32) ^ counter[3] ^ key[1],
            wide0 % 2**32,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def words(key: tuple[int, int]) -> Iterator[int]:
    seed, offset = (word % 2**64 for word in key)
    while True:
        yield from philox([offset % 2**32, offset // 2**32, 0, 0], [seed % 2**32, seed // 2**32])
        offset = (offset + 1) % 2**64


def uniform(key: tuple[int, int], n: int) -> list[float]:
    source = words(key)
    return [(next(source) // 512 + 0.5) / 2**23 for _ in range(n)]


def normal(key: tuple[int, int], n: int) -> list[float]:
    source, out = words(key), []
    while len(out) < n:
        a, b = ((next(source) + 0.5) / 2**32 for _ in range(2))
        radius = math.sqrt(-2 * math.log(a))
        out += [radius * math.cos(2 * math.pi * b), radius * math.sin(2 * math.pi * b)]
    return out[:n]


def fold_in(key: tuple[int, int], data: int) -> tuple[int, int]:
    source = words((key[0], key[1] + data))
    w = [next(source) for _ in range(4)]
    signed = [lo + 2**32 * hi for lo, hi in ((w[0], w[1]), (w[2], w[3]))]
    return tuple(n - 2**64 if n >= 2**63 else n for n in signed)


def gate_key(key: tuple[int, int], name: str) -> tuple[int, int]:
    return fold_in(
        key, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
    )


# Distributions, from the definitions in their papers.

# Functions of a distribution that take locations alone.
FUNCTIONS = ("prob_nonzero", "prob_one", "mean", "second_moment", "variance", "deterministic")


def draw(distribution: GateDistribution, u: np.ndarray, la: np.ndarray) -> np.ndarray:
    """The gate at probability u."""
    if isinstance(distribution, l0.HardConcrete):
        s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + la) / distribution.temperature))
        stretched = s * (distribution.zeta - distribution.gamma) + distribution.gamma
    elif isinstance(distribution, l0.GaussianGate):
        from statistics import NormalDist

        stretched = la + distribution.sigma * np.vectorize(NormalDist().inv_cdf)(u)
    elif isinstance(distribution, l0.BernoulliGate):
        return np.where(u > 1 / (1 + np.exp(la)), 1.0, 0.0)
    else:
        assert isinstance(distribution, l0.HardKuma), f"{distribution} has no oracle yet"
        a, b = (
            distribution.concentration * np.exp(la / 2),
            distribution.concentration * np.exp(-la / 2),
        )
        x = (1 - (1 - u) ** (1 / b)) ** (1 / a)
        stretched = distribution.low + (distribution.high - distribution.low) * x
    return np.minimum(1, np.maximum(0, stretched))


def survival(distribution: GateDistribution, t: np.ndarray, la: float) -> np.ndarray:
    """P(z > t) for t in [0, 1): the share of u whose draw exceeds t, by inverting the draw."""
    if isinstance(distribution, l0.HardConcrete):
        s = (t - distribution.gamma) / (distribution.zeta - distribution.gamma)
        return 1 / (1 + np.exp(distribution.temperature * np.log(s / (1 - s)) - la))
    if isinstance(distribution, l0.GaussianGate):
        return np.vectorize(
            lambda at: 0.5 * math.erfc((at - la) / distribution.sigma / math.sqrt(2))
        )(t)
    if isinstance(distribution, l0.BernoulliGate):
        return np.full_like(t, 1 / (1 + math.exp(-la)))
    assert isinstance(distribution, l0.HardKuma), f"{distribution} has no oracle yet"
    a, b = (
        distribution.concentration * math.exp(la / 2),
        distribution.concentration * math.exp(-la / 2),
    )
    x = (t - distribution.low) / (distribution.high - distribution.low)
    return (1 - x**a) ** b


@cache
def moment(distribution: GateDistribution, la: float, order: int, panels: int = 4000) -> float:
    """E[z^order] by Simpson's rule in an angle, which crowds its points at both ends."""
    angle = np.linspace(0, np.pi, 2 * panels + 1)
    t, jacobian = (1 - np.cos(angle)) / 2, np.sin(angle) / 2
    values = (
        order * t ** (order - 1) * survival(distribution, np.minimum(t, 1 - 1e-15), la) * jacobian
    )
    weights = np.ones(2 * panels + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((values * weights).sum() * np.pi / (6 * panels))


# Masks and costs, entry by entry.


def gates_of(rule: Any, shape: tuple[int, ...], entry: tuple[int, ...]) -> set[int]:
    """The flat numbers of the gates that a rule puts on an entry."""
    kind = type(rule).__name__
    if kind == "whole":
        return {0}
    if kind == "element":
        return {int(np.ravel_multi_index(entry, shape))}
    if kind == "axes":
        dims = sorted(d % len(shape) for d in rule.dims)
        return {int(np.ravel_multi_index([entry[d] for d in dims], [shape[d] for d in dims]))}
    d = rule.dim % len(shape)
    if kind == "tiles":
        return {entry[d] % (shape[d] // rule.n)}
    stop = shape[d] if rule.stop is None else rule.stop
    if not rule.start <= entry[d] < stop:
        return set()
    if kind == "axis":
        return {entry[d] - rule.start}
    run = (entry[d] - rule.start) // rule.size
    return {run * rule.sharers + j for j in range(rule.sharers)}


def entries(spec: l0.GateSpec) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Every entry of every gated parameter."""
    for p in spec.parameters:
        if p.bindings:
            yield from ((p, entry) for entry in product(*map(range, p.shape)))


def factors(
    p: Any,
    entry: tuple[int, ...],
    of_multiplier: Callable[[str, int], float],
    of_owner: Callable[[str, int], float],
) -> float:
    """The product over the distinct gates of an entry; sharers count as one that is open if any
    is.
    """
    value, seen = 1.0, set()
    for binding in sorted(p.bindings, key=lambda b: not b.multiplies):
        of = of_multiplier if binding.multiplies else of_owner
        numbers = gates_of(binding.rule, p.shape, entry)
        fresh = {(binding.gate, n) for n in numbers} - seen
        if getattr(binding.rule, "sharers", 1) > 1:
            value *= 1 - math.prod(1 - of(name, n) for name, n in fresh)
        else:
            value *= math.prod(of(name, n) for name, n in fresh)
        seen |= fresh
    return value

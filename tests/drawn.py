"""Cases for every torch function that draws: a call on values between 0 and 1, shape (1, 2, 3).

Dropout is called on batches of channels, so that a mask may be shared along every dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Draw = Callable[[Any, Tensor], Any]


def _filled(*args: Any) -> Draw:
    return lambda f, h: f(torch.empty(40, 50, dtype=h.dtype), *args)


def _dropped(*args: Any) -> Draw:
    return lambda f, h: f(torch.ones(20, 20, 10, dtype=h.dtype) + h.mean(), *args)


DRAWS: dict[str, Draw] = {
    **dict.fromkeys(["F: dropout", "F: alpha_dropout", "F: dropout1d"], _dropped(0.4, True)),
    "F: feature_alpha_dropout": _dropped(0.4, True),
    "F: dropout2d": lambda f, h: f(h.new_ones(20, 20, 4, 4) + h.mean(), 0.4, True),
    "F: dropout3d": lambda f, h: f(h.new_ones(20, 20, 3, 3, 2) + h.mean(), 0.4, True),
    "F: gumbel_softmax": lambda f, h: f(torch.zeros(40, 5, dtype=h.dtype) + h.mean(), 1.0, True),
    "F: rrelu": lambda f, h: f(-h.new_ones(40, 50), 0.1, 0.3, True),
    "Tensor: bernoulli": lambda f, h: f(h.new_full((40, 50), 0.3)),
    "torch: bernoulli": lambda f, h: f(h.new_full((40, 50), 0.3)),
    **{f"Tensor: {name}_": _filled() for name in ("bernoulli", "cauchy", "exponential")},
    **{f"Tensor: {name}_": _filled() for name in ("normal", "uniform")},
    "Tensor: log_normal_": _filled(0.0, 0.25),
    "Tensor: geometric_": _filled(0.3),
    "Tensor: random_": _filled(100),
    "Tensor: multinomial": lambda f, h: f(h.new_ones(40, 5), 3),
    "torch: multinomial": lambda f, h: f(h.new_ones(40, 5), 3),
    "init: sparse_": _filled(0.3),
    **{f"init: {name}_": _filled() for name in ("kaiming_normal", "normal", "orthogonal")},
    **{f"init: {name}_": _filled() for name in ("uniform", "xavier_normal", "xavier_uniform")},
    "init: trunc_normal_": _filled(0.0, 1.0, -6.0, 6.0),
    **{f"torch: {n}dropout{i}": _dropped(0.4, True) for n in ("", "feature_") for i in ("", "_")},
    **{f"torch: {n}alpha_dropout{i}": _dropped(0.4, True) for n in ("", "feature_") for i in "_"},
    **{f"torch: {n}alpha_dropout": _dropped(0.4, True) for n in ("", "feature_")},
    "torch: normal": lambda f, h: f(h.new_zeros(40, 50), 2.0),
    "torch: rand": lambda f, h: f(40, 50, dtype=h.dtype),
    "torch: randn": lambda f, h: f(40, 50, dtype=h.dtype),
    "torch: rand_like": lambda f, h: f(h.new_zeros(40, 50)),
    "torch: randn_like": lambda f, h: f(h.new_zeros(40, 50)),
    "torch: randint": lambda f, h: f(100, (40, 50)),
    "torch: randint_like": lambda f, h: f(h.new_zeros(40, 50), 100),
    "torch: randperm": lambda f, h: f(2000),
    "torch: rrelu": lambda f, h: f(-h.new_ones(40, 50), 0.1, 0.3, True),
    "torch: rrelu_": lambda f, h: f(-h.new_ones(40, 50), 0.1, 0.3, True),
}


def assert_same_law(ours: Tensor, plain: Tensor) -> None:
    """Two draws of one shape have the same means, and values that vary along the same dimensions.

    Means of squeezed values are compared: of Cauchy draws too.

    Raises:
        AssertionError: Their means differ by more than five standard errors, or means along a
            dimension vary by unlike amounts, as those of values that share a mask do.
    """
    a, b = (t.double().div(1 + t.double().abs()) for t in (ours, plain))
    channels = a.flatten(0, min(2, a.dim() - 1))
    of_channels = channels.reshape(len(channels), -1).mean(1)
    error = of_channels.std() * (2 / len(channels)) ** 0.5 + a.std() * (2 / a.numel()) ** 0.5
    assert (a.mean() - b.mean()).abs() <= 5 * error
    for dim in range(1, a.dim()):
        # At most three dimensions have values of their own, as those of a channel dropout.
        independent = len(channels) / (a.shape[dim] if dim < 3 else 1)
        if independent < 50:
            continue
        one, other = (t.mean(dim).var() + 1e-6 * t.var() for t in (a, b))
        # The standard error of a variance's logarithm is sqrt(2 / n).
        assert (one / other).log().abs() <= 5 * (4 / independent) ** 0.5, dim

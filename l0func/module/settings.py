"""Checks of an ``L0Module``'s settings, where it is built."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0func.costs.expected import Lam, check_one_decay
from l0func.distributions import GateDistribution, HardConcrete
from l0func.engine.arguments import check_axes
from l0func.engine.gated import Sampling
from l0func.engine.row import Axis
from l0func.gates.checks import MaskEstimator, check_estimator
from l0func.internal import names
from l0func.internal.context import compiling, known_values
from l0func.internal.scalars import with_type
from l0func.internal.untyped import untyped
from l0func.module.live import named_modules
from l0func.pure.functional import PureModule
from l0func.spec.plan import GateSpec
from l0func.train.numbers import check_number

EPSILON = 1e-6
"""The default of a setting without effect."""

_LIMITS = {"temperature": 2 / 3, "limit_a": -0.1, "limit_b": 1.1}


def check_arguments(
    module: Any,
    holder: type[nn.Module],
    estimator: MaskEstimator,
    epsilon: float,
    rank: int | None,
) -> None:
    """Refuse arguments that are wrong for every module, and a module that cannot have gates.

    Args:
        module: What the user gave.
        holder: The class that wraps it.
        estimator: The test-time gates.
        epsilon: The distance from 0 and 1 that draws keep.
        rank: The number that sets a process's draws apart.

    Raises:
        TypeError: The module is not a module, or the rank is no whole number.
        ValueError: The module has gates already, or another argument is not valid.
    """
    check_estimator(estimator)
    _check_epsilon(epsilon)
    _check_rank(rank)
    _check_module(module, holder)


def _check_rank(rank: Any) -> None:
    """Refuse a rank that no key can be made from, such as an environment variable's text."""
    if rank is None or (hasattr(rank, "__index__") and not isinstance(rank, bool)):
        return
    raise TypeError(
        "rank is a whole number that sets this process's draws apart, such as "
        f"torch.distributed.get_rank() or int(os.environ['RANK']); got {with_type(rank)}."
    )


def _check_module(module: Any, holder: type[nn.Module]) -> None:
    """Refuse anything but a module that has no gates yet.

    Args:
        module: What the user gave.
        holder: The class that wraps it.

    Raises:
        TypeError: It is not a module.
        ValueError: It is, or holds, an instance of ``holder`` already.
    """
    name = holder.__name__
    if isinstance(module, PureModule):
        raise TypeError(
            f"{name} wraps an nn.Module; got a pure function from make_functional. Give it the "
            "module itself, or put the function behind gates with l0func.gated(fn, spec)."
        )
    if isinstance(module, type):
        raise TypeError(
            f"{name} wraps an instance of a module; got the class {module.__name__}. Build one, "
            f"as in {name}({module.__name__}(...), lam)."
        )
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{name} wraps an nn.Module; got {type(module).__name__}. For a function of params "
            "and buffers use l0func.gated(fn, spec)."
        )
    for path, child in named_modules(module):
        if isinstance(child, holder):
            found = f"{path!r} in it" if path else "it"
            inside = f"{path}.module" if path else "its attribute 'module'"
            raise ValueError(
                f"The module has gates already: {found} is an {name}. Wrap the module inside "
                f"that, {inside}, with rules or groups for all gates."
            )


def check_costs(
    lam: Lam | Mapping[str, Lam], weight_decay: float | Tensor, spec: GateSpec
) -> None:
    """Refuse costs that are no numbers, NaN, infinite or negative, or that fit no parameter.

    Raises:
        TypeError: A cost is neither a number nor a tensor.
        ValueError: A cost has another value or shape, the weight decay has several numbers, or a
            pattern matches nothing.
    """
    shapes = {p.path: p.shape for p in spec.gated()}
    for name, cost in _named_costs(lam, weight_decay):
        _check_cost(name, cost)
    check_one_decay(weight_decay)
    prices = names.per_path(lam, shapes, "lam", "gated parameter")
    for path, price in prices.items():
        _check_lam_shape(path, price, shapes[path])


def check_plain_costs(lam: Lam | Mapping[str, Lam], weight_decay: float | Tensor) -> None:
    """Refuse costs as :func:`check_costs` does, without a look into tensors.

    Raises:
        TypeError: A cost is neither a number nor a tensor.
        ValueError: A number is NaN, infinite or negative.
    """
    if compiling():
        return
    for name, cost in _named_costs(lam, weight_decay):
        if not isinstance(cost, Tensor):
            _check_cost(name, cost)


def _named_costs(
    lam: Lam | Mapping[str, Lam], weight_decay: float | Tensor
) -> Iterator[tuple[str, Any]]:
    if isinstance(lam, Mapping):
        for pattern, cost in lam.items():
            yield f"lam of {pattern!r}", cost
    else:
        yield "lam", lam
    yield "weight_decay", weight_decay


def _check_cost(name: str, cost: Any) -> None:
    """Refuse a cost that is no finite number of at least 0, or a tensor with other values.

    Raises:
        TypeError: It is neither a number nor a tensor.
        ValueError: It is NaN, infinite or negative.
    """
    if isinstance(cost, Tensor):
        if cost.is_meta:
            return
        values = cost.detach()
        wrong = values[~((values >= 0) & values.isfinite())]
        first: Any = known_values(wrong[:1]) if wrong.numel() else None
        if first:
            raise _cost_error(name, first[0])
        return
    if isinstance(cost, bool) or not isinstance(cost, numbers.Real):
        raise TypeError(
            f"{name} is a number of at least 0, or a tensor; got {cost!r}. A cost of 0 asks for "
            "no sparsity."
        )
    if not 0.0 <= float(cost) < math.inf:
        raise _cost_error(name, float(cost))


def _cost_error(name: str, value: float) -> ValueError:
    reason = "A negative cost would open gates" if value < 0 else "The loss would be no number"
    return ValueError(f"{name} is finite and at least 0; got {value}. {reason}.")


def _check_lam_shape(path: str, price: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(price, Tensor):
        return
    try:
        fits = untyped.broadcast_shapes(price.shape, shape) == torch.Size(shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"lam is a number or broadcasts to its parameter; got {tuple(price.shape)} for "
            f"{path!r} of shape {shape}."
        )


def chosen_distribution(
    distribution: GateDistribution | Mapping[str, GateDistribution] | None,
    temperature: float,
    limit_a: float,
    limit_b: float,
) -> GateDistribution | Mapping[str, GateDistribution]:
    """The distribution; hard concrete with these limits if none is given.

    Raises:
        ValueError: A distribution is given, and a limit or temperature beside it.
    """
    if distribution is None:
        return HardConcrete(temperature, limit_a, limit_b)
    given = {"temperature": temperature, "limit_a": limit_a, "limit_b": limit_b}
    for name, value in given.items():
        if value != _LIMITS[name]:
            raise ValueError(
                f"{name}={value} is a setting of the hard concrete distribution, and "
                f"distribution={distribution!r} is given. Give one of the two, as in "
                "distribution=l0func.HardConcrete(temperature, gamma, zeta)."
            )
    return distribution


def check_sampling(sampling: Sampling, per_example: bool, draws_entries: bool) -> None:
    """Refuse local reparameterisation for masks that a batch shares.

    Raises:
        ValueError: It is asked for without a mask for each example.
    """
    if sampling == "local_reparam" and draws_entries and not per_example:
        raise ValueError(
            "Local reparameterisation draws the sums of each example anew; it has no mask that a "
            "batch shares. Set per_example=True, or use sampling='exact'."
        )


def check_row_settings(per_example: bool, in_dims: Axis, out_dims: Axis) -> None:
    """Refuse settings of rows that are none, or that have no effect.

    Raises:
        TypeError: ``per_example`` is neither True nor False, or a dimension has another type.
        ValueError: Dimensions of rows are given, and there is one mask for the batch.
    """
    check_per_example(per_example)
    for name, dims in {"in_dims": in_dims, "out_dims": out_dims}.items():
        check_axes(name, dims)
        if not per_example and dims != 0:
            raise ValueError(
                f"{name} says where the rows are that have masks of their own, and this L0Module "
                f"has one mask for the batch. Set per_example=True, or leave {name} out."
            )


def check_per_example(value: bool) -> None:
    """Refuse anything but True and False.

    Raises:
        TypeError: It is something else, such as the text "no", which counts as true.
    """
    if value not in (True, False):
        raise TypeError(f"per_example is True or False; got {with_type(value)}.")


def _check_epsilon(epsilon: float) -> None:
    """Refuse an epsilon outside [0, 1/2), and warn of another than the default."""
    check_number("epsilon", epsilon)
    if not 0.0 <= epsilon < 0.5:
        raise ValueError(
            f"epsilon is a distance from 0 and 1 that draws keep, in [0, 1/2); got {epsilon}."
        )
    if epsilon != EPSILON:
        warnings.warn(
            "epsilon has no effect: draws are on the open interval (0, 1), never closer than 6e-8 "
            "to its ends.",
            stacklevel=4,
        )


def chosen_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The seed; a draw from the generator, or from torch's global one, if none is given.

    Raises:
        TypeError: ``generator`` is something else.
    """
    if seed is not None:
        return seed
    given: Any = generator
    if given is not None and not isinstance(given, torch.Generator):
        raise TypeError(
            f"generator is a torch.Generator; got {with_type(given)}. A number goes in as seed."
        )
    low, high = -(1 << 63), (1 << 63) - 1
    # Named, because a default device need not be the generator's.
    device = torch.device("cpu") if generator is None else generator.device
    return int(torch.randint(low, high, (), generator=generator, dtype=torch.int64, device=device))

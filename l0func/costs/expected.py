"""Expected costs under random gates: open entries, squares, and the penalty for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from l0func.costs.terms import Term, entry_term, totals, weighted_term
from l0func.gates.checks import Gates, Masks, check_devices, check_gates, check_params
from l0func.gates.masks import mean_masks
from l0func.internal import names
from l0func.internal.kinds import squares
from l0func.internal.scalars import check_cost
from l0func.internal.sharding import is_dtensor
from l0func.internal.shards import product_with, whole_of
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, ParameterPlan

Lam = float | Tensor
"""The cost of an open entry: one number, or a tensor that broadcasts to the parameter."""


def expected_l0(gates: Tree, spec: GateSpec) -> Tensor:
    r"""Expected number of open entries in the gated parameters.

    .. math:: E[L_0] = \sum_j \prod_{g \in j} P(z_g \ne 0)

    over the entries :math:`j` of every gated parameter (a parameter is gated if any gate
    multiplies or owns a slice of it) and, for each, its distinct gates.

    Source: Louizos, Welling & Kingma (2018), arXiv:1712.01312.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.

    Returns:
        Entries, a scalar.

    Raises:
        ValueError: Gates do not fit the spec.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> l0.expected_l0(gates, spec)  # of 6 entries
        tensor(3.5629)
    """
    opens = prob_open(check_gates(gates, spec), spec)
    return totals([[entry_term(opens[p.path], p) for p in spec.gated()]])[0]


def expected_sparsity(gates: Tree, spec: GateSpec) -> Tensor:
    """Expected share of closed entries among all parameters in the spec.

    Entries without gates are open. A spec without entries has the share 0.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: Gates do not fit the spec.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> l0.expected_sparsity(gates, spec)
        tensor(0.4062)
    """
    open_entries = expected_l0(gates, spec)
    gated = sum(p.size for p in spec.gated())
    total = sum(p.size for p in spec.parameters)
    return (gated - open_entries) / max(total, 1)


def expected_l2(params: Tree, gates: Tree, spec: GateSpec) -> Tensor:
    r"""Expected sum of squared effective weights in the gated parameters.

    .. math::
        \sum_j |w_j|^2 \prod_{g \text{ multiplies } j} E[z_g^2]
        \prod_{g \text{ only owns } j} P(z_g \ne 0)

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.

    Returns:
        A scalar.

    Raises:
        ValueError: Params or gates do not fit the spec.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> l0.expected_l2(params, gates, spec)
        tensor(2.8604)
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    check_devices(tensors, named, spec)
    gated = list(spec.gated())
    return totals([map(Term, effective_squares(tensors, named, spec, gated))])[0]


def effective_squares(
    params: Mapping[str, Tensor],
    gates: Gates,
    spec: GateSpec,
    wanted: Sequence[ParameterPlan],
) -> Iterator[Tensor]:
    """For each wanted parameter, the expected squares of its effective weights.

    Args:
        params: ``{parameter path: parameter}``.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        wanted: The parameters; one without gates has plain squares.
    """
    moments = {g.name: g.distribution.second_moment(gates[g.name]) for g in spec.gates}
    opens = _prob_nonzero(gates, spec)
    for p in wanted:
        squared = squares(params[p.path])
        if p.bindings:
            mask = p.spread(moments, owned=True, owners=opens)
            squared = product_with(squared, mask, p.path, gathers=p.has_owners)
        yield squared


def _prob_nonzero(gates: Gates, spec: GateSpec) -> Gates:
    """The probability that each gate is open, ``{gate name: probabilities}``."""
    return {g.name: g.distribution.prob_nonzero(gates[g.name]) for g in spec.gates}


def squared_mean(params: Tree, gates: Tree, spec: GateSpec) -> Tensor:
    r"""Sum of squared expected weights, :math:`\sum_j |E[z_j] w_j|^2`, over all parameters.

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.

    Returns:
        A scalar.

    Raises:
        ValueError: Params or gates do not fit the spec.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.zeros(2)}  # E[z] = 0.5
        >>> l0.squared_mean(params, gates, spec)
        tensor(1.5000)
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    check_devices(tensors, named, spec)
    masks = mean_masks(named, spec)
    return totals([map(Term, _mean_squares(tensors, masks))])[0]


def _mean_squares(params: Mapping[str, Tensor], masks: Masks) -> Iterator[Tensor]:
    for path, param in params.items():
        mean = product_with(param, masks[path], path) if path in masks else param
        yield squares(mean)


def penalty(
    params: Tree,
    gates: Tree,
    spec: GateSpec,
    lam: Lam | Mapping[str, Lam] = 1e-3,
    weight_decay: float | Tensor = 0.0,
    detach_params: bool = False,
) -> Tensor:
    r"""The expected L0 and L2 cost, to add to the loss.

    .. math:: \sum_j \bigl(\lambda_j + \tfrac{1}{2} \mathrm{wd}\, |w_j|^2\bigr) P(z_j \ne 0)

    over the entries of the gated parameters. For a loss that is a *mean* over N examples, the
    paper's λ is λ/N here.

    Source: Louizos, Welling & Kingma (2018), arXiv:1712.01312, Sec. 2.3.

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        lam: Cost per open entry: a number, a scalar tensor (for vmap), a tensor that broadcasts to
            the parameter, or ``{pattern: one such value}`` over parameter paths.
        weight_decay: Cost per half squared weight, while its gates are open: one number, or a
            tensor with one.
        detach_params: Whether weight decay has a gradient in the gates only, and none in the
            weights.

    Returns:
        A scalar, in the units of the loss.

    Raises:
        TypeError: ``lam`` or ``weight_decay`` is neither a number nor a tensor.
        ValueError: Params or gates do not fit the spec; a pattern of ``lam`` does not fit the
            parameters; ``weight_decay`` has several numbers; or ``lam`` or ``weight_decay`` is
            negative, infinite or NaN.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> l0.penalty(params, gates, spec, lam=0.1)
        tensor(0.3563)
        >>> 0.1 * l0.expected_l0(gates, spec)
        tensor(0.3563)
    """
    tensors = check_params(params, spec)
    named = check_gates(gates, spec)
    opens = prob_open(named, spec)
    paths = [p.path for p in spec.gated()]
    lams = names.per_path(lam, paths, "lam", "gated parameter")
    _check_lam_and_decay(lams, weight_decay)
    decays = isinstance(weight_decay, Tensor) or weight_decay != 0.0
    if decays:
        check_devices(tensors, named, spec)
    terms = [_priced(lams[p.path], opens[p.path], p) for p in spec.gated()]
    if not decays:
        return totals([terms])[0]
    price = _one_price(weight_decay)
    weights = {path: t.detach() for path, t in tensors.items()} if detach_params else tensors
    decay = _decayed(weights, opens, spec, 0.5 * price)
    return totals([chain(terms, decay)])[0]


def _one_price(weight_decay: float | Tensor) -> float | Tensor:
    return whole_of(weight_decay).reshape(()) if isinstance(weight_decay, Tensor) else weight_decay


def _decayed(
    weights: Mapping[str, Tensor], opens: Gates, spec: GateSpec, price: float | Tensor
) -> Iterator[Term]:
    """For each gated parameter the cost of its expected squares."""
    for p in spec.gated():
        squared = squares(weights[p.path])
        kept = product_with(squared, opens[p.path], p.path, gathers=p.has_owners)
        yield Term(kept, (price,))


def _check_lam_and_decay(lams: Mapping[str, Any], weight_decay: Any) -> None:
    """Refuse costs that are no numbers, negative, infinite or NaN.

    Args:
        lams: The cost of an open entry, by parameter path or pattern.
        weight_decay: The cost of half a squared weight.

    Raises:
        TypeError: A cost is neither a number nor a tensor.
        ValueError: A number is negative, infinite or NaN, or ``weight_decay`` has several.
    """
    for path, lam in lams.items():
        check_cost(lam, f"lam of {path!r}")
    check_cost(weight_decay, "weight_decay")
    check_one_decay(weight_decay)


def check_one_decay(weight_decay: float | Tensor) -> None:
    """Refuse a weight decay of several numbers: the penalty would have as many.

    Raises:
        ValueError: It is a tensor with any number of entries but one.
    """
    if isinstance(weight_decay, Tensor) and weight_decay.numel() != 1:
        raise ValueError(
            "weight_decay is one number for all parameters; got a tensor of shape "
            f"{tuple(weight_decay.shape)}. Costs that differ from entry to entry go in as lam, "
            "which broadcasts to its parameter."
        )


def prob_open(gates: Gates, spec: GateSpec) -> dict[str, Tensor]:
    """For every gated parameter the probability that each entry is open, broadcastable to it."""
    opens = _prob_nonzero(gates, spec)
    return {p.path: p.spread(opens, owned=True) for p in spec.gated()}


def _priced(lam: Lam, opens: Tensor, p: ParameterPlan) -> Term:
    """The cost of one parameter's entries, each open with its probability."""
    if not isinstance(lam, Tensor):
        return entry_term(opens, p, lam)
    if lam.dim() == 0:
        return entry_term(opens, p, whole_of(lam))
    try:
        prices = lam.expand(p.shape)
    except RuntimeError:
        raise ValueError(
            f"lam is a number or broadcasts to its parameter; got {tuple(lam.shape)} for "
            f"{p.path!r} of shape {p.shape}."
        ) from None
    if is_dtensor(prices):
        return Term(product_with(prices, opens, p.path, gathers=p.has_owners))
    return weighted_term(opens, prices)

"""What the gates cost: expected counts, expected squares, and the penalty that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from l0func.gates.checks import Gates, check_gates, check_params
from l0func.gates.masks import mean_masks
from l0func.internal import names
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, ParameterPlan

Lam = float | Tensor


def expected_l0(gates: Tree, spec: GateSpec) -> Tensor:
    r"""Expected number of entries that stay, among the parameters behind gates.

    .. math:: E[L_0] = \sum_j \prod_{g \in j} P(z_g \ne 0)

    over the entries :math:`j` of every gated parameter (a parameter is gated if any gate
    multiplies or owns a slice of it) and, for each, its distinct gates.

    Source: Louizos, Welling & Kingma (2018), arXiv:1712.01312.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        Entries, a scalar.

    Raises:
        ValueError: Gates do not fit the spec.
    """
    opens = prob_open(check_gates(gates, spec), spec)
    return _total(entry_sum(opens[p.path], p) for p in spec.gated())


def expected_sparsity(gates: Tree, spec: GateSpec) -> Tensor:
    """Expected share of entries that go, among all parameters that the spec saw; those without
    gates stay.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: Gates do not fit the spec.
    """
    gated = sum(p.size for p in spec.gated())
    return (gated - expected_l0(gates, spec)) / sum(p.size for p in spec.parameters)


def expected_l2(params: Tree, gates: Tree, spec: GateSpec) -> Tensor:
    r"""Expected sum of squares of the effective weights, among the parameters behind gates.

    .. math:: \sum_j w_j^2 \prod_{g \text{ multiplies } j} E[z_g^2] \prod_{g \text{ only owns } j} P(z_g \ne 0)

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        A scalar.

    Raises:
        ValueError: Params or gates do not fit the spec.
    """
    squares = squares_by_parameter(check_params(params, spec), check_gates(gates, spec), spec)
    return _total(squares[p.path] for p in spec.gated())


def squares_by_parameter(
    params: Mapping[str, Tensor], gates: Gates, spec: GateSpec
) -> dict[str, Tensor]:
    """The expected sum of squares of every parameter's effective weights; of the plain ones
    without gates.
    """
    squares = {g.name: g.distribution.second_moment(gates[g.name]) for g in spec.gates}
    opens = {g.name: g.distribution.prob_nonzero(gates[g.name]) for g in spec.gates}

    def of(p: ParameterPlan) -> Tensor:
        if not p.bindings:
            return (params[p.path] ** 2).sum()
        return (p.spread(squares, owned=True, owners=opens) * params[p.path] ** 2).sum()

    return {p.path: of(p) for p in spec.parameters}


def squared_mean(params: Tree, gates: Tree, spec: GateSpec) -> Tensor:
    r"""Sum of squares of the expected weights, :math:`\sum_j (E[z_j] w_j)^2`, over all parameters.

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        A scalar.

    Raises:
        ValueError: Params or gates do not fit the spec.
    """
    tensors, masks = check_params(params, spec), mean_masks(gates, spec)
    return _total(
        ((p * masks[path] if path in masks else p) ** 2).sum() for path, p in tensors.items()
    )


def penalty(
    params: Tree,
    gates: Tree,
    spec: GateSpec,
    lam: Lam | Mapping[str, Lam] = 1e-3,
    weight_decay: float | Tensor = 0.0,
    detach_params: bool = False,
) -> Tensor:
    r"""The expected L0 and L2 cost that is added to the loss.

    .. math:: \sum_j \bigl(\lambda_j + \tfrac{1}{2} \mathrm{wd}\, w_j^2\bigr) P(z_j \ne 0)

    over the entries of the gated parameters. For a loss that is a *mean* over N examples, the
    paper's λ is λ/N here.

    Source: Louizos, Welling & Kingma (2018), arXiv:1712.01312, Sec. 2.3.

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        lam: Cost of an entry: a number, a scalar tensor (which vmaps), a tensor that broadcasts to
            the parameter, or ``{pattern: any of these}`` over parameter paths.
        weight_decay: Cost of half a squared weight, while its gate is open.
        detach_params: Whether weight decay leaves the weights alone and only tells their gates
            what they cost.

    Returns:
        A scalar, in the units of the loss.

    Raises:
        ValueError: Params or gates do not fit the spec, or a pattern of ``lam`` does not fit the
            parameters.
    """
    tensors = check_params(params, spec)
    opens = prob_open(check_gates(gates, spec), spec)
    lams = names.per_path(lam, [p.path for p in spec.gated()], "lam", "gated parameter")
    terms: list[Tensor] = []
    for p in spec.gated():
        terms.append(_priced(lams[p.path], opens[p.path], p))
        if isinstance(weight_decay, Tensor) or weight_decay != 0.0:
            weight = tensors[p.path].detach() if detach_params else tensors[p.path]
            terms.append(0.5 * weight_decay * (weight**2 * opens[p.path]).sum())
    return _total(iter(terms))


def prob_open(gates: Gates, spec: GateSpec) -> dict[str, Tensor]:
    """For every gated parameter the probability that each entry is open, broadcastable to it."""
    opens = {g.name: g.distribution.prob_nonzero(gates[g.name]) for g in spec.gates}
    return {p.path: p.spread(opens, owned=True) for p in spec.gated()}


def _priced(lam: Lam, opens: Tensor, p: ParameterPlan) -> Tensor:
    if not isinstance(lam, Tensor) or lam.dim() == 0:
        return lam * entry_sum(opens, p)
    try:
        return (lam.expand(p.shape) * opens).sum()
    except RuntimeError:
        raise ValueError(
            f"lam is a number or broadcasts to its parameter; got {tuple(lam.shape)} for "
            f"{p.path!r} of shape {p.shape}."
        ) from None


def entry_sum(values: Tensor, p: ParameterPlan) -> Tensor:
    """The sum over a parameter's entries of values that broadcast to it."""
    return values.sum() * (p.size / max(values.numel(), 1))


def _total(terms: Iterator[Tensor]) -> Tensor:
    total = torch.zeros(())
    for i, term in enumerate(terms):
        total = term if i == 0 else total + term
    return total

"""Multiply-adds in one call of a network: dense, expected, and under test-time gates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from l0func.costs.products import ActivationProduct, ParameterSlices, macs_of_products
from l0func.costs.terms import Term, entry_term, totals, weighted_term
from l0func.gates.checks import Gates, MaskEstimator, check_gates, check_values
from l0func.gates.masks import deterministic_gates
from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.internal.untyped import listed
from l0func.internal.whole import check_whole
from l0func.pure.functional import PureModule, check_function
from l0func.pure.inputs import fitting
from l0func.spec.plan import GateSpec, ParameterPlan
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace


@dataclass(frozen=True)
class MacCounts:
    """Multiply-adds in one call with every gate open, made by :func:`count_macs`.

    Attributes:
        uses: ``{parameter path: how often an entry is multiplied}``: a scalar, or a tensor of the
            parameter's shape.
        products: Products between activations.
        sizes: ``{parameter path: number of entries}`` for the paths in ``uses``.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> counts = l0.count_macs(*l0.make_functional(torch.nn.Linear(4, 3)), torch.ones(5, 4))
        >>> counts.by_parameter
        {'weight': 60}
    """

    uses: Mapping[str, Tensor]
    products: tuple[ActivationProduct, ...]
    sizes: Mapping[str, int]

    @cached_property
    def by_parameter(self) -> dict[str, int]:
        """Multiply-adds with the entries of each parameter."""
        counts: dict[str, int] = {}
        for path, uses in self.uses.items():
            uniform = uses.dim() == 0
            counts[path] = round(float(uses * self.sizes[path] if uniform else uses.sum()))
        return counts

    # Kept: the compiler of torch 2.9 reads no number out of a tensor.
    @cached_property
    def total(self) -> int:
        """Multiply-adds in the whole call."""
        with_parameters = sum(self.by_parameter.values())
        return with_parameters + sum(product.macs for product in self.products)

    def only(self, paths: Iterable[str]) -> MacCounts:
        """The multiply-adds with some parameters only, without products between activations."""
        kept = [path for path in paths if path in self.uses]
        uses = {path: self.uses[path] for path in kept}
        sizes = {path: self.sizes[path] for path in kept}
        return MacCounts(uses, (), sizes)


def count_macs(
    fn: PureModule, params: Tree, buffers: Tree, /, *inputs: Any, **kwargs: Any
) -> MacCounts:
    """Count the multiply-adds in one call, by tracing how often it uses each parameter entry.

    Matrix products and convolutions count; attention and recurrent layers count as the products
    inside them. The total is half the number that ``torch.utils.flop_counter`` gives. A product of
    two parameters counts for the second one; with constants alone it counts for none.

    Args:
        fn: A pure function from ``make_functional`` or ``compact``.
        params: Its parameters, flat or nested.
        buffers: Its buffers.
        *inputs: The inputs of its ``forward``; the counts are for all their rows.
        **kwargs: Its keyword inputs.

    Returns:
        The counts, for :func:`expected_macs` and :func:`realised_macs`; ``.total`` is the dense
        number.

    Raises:
        TypeError: ``fn`` is not a pure function from ``make_functional``, or its forward does not
            take these inputs.
        ValueError: The trees do not fit ``fn``, or forward branches on data.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.count_macs(*l0.make_functional(torch.nn.Linear(4, 3)), torch.ones(5, 4)).total
        60
    """
    check_whole("count_macs", params=params, buffers=buffers)
    check_function(fn)
    tensors, named_buffers = tree.leaves(params), tree.leaves(buffers, "buffers")
    trace = follow(fn, tensors, named_buffers, fitting(fn, inputs, kwargs))
    sizes = {path: torch.Size(trace.shapes[path]).numel() for path in trace.uses}
    return MacCounts(dict(trace.uses), _products(trace), sizes)


def _products(trace: Trace) -> tuple[ActivationProduct, ...]:
    """The products between activations, merged where the same slices make both units."""
    if not trace.products:
        # To look for the makers of all units takes longer than the rest of the count.
        return ()
    makers = _makers(trace)
    merged: dict[tuple[ParameterSlices, ...], int] = {}
    for labels, macs in trace.products.items():
        roots = {trace.units.root(label) for label in labels if label >= 0}
        slices: list[ParameterSlices] = []
        for root in sorted(roots):
            slices += _slices_of(makers.get(root, {}))
        merged[tuple(slices)] = merged.get(tuple(slices), 0) + macs
    return tuple(ActivationProduct(macs, slices) for slices, macs in merged.items())


def _makers(trace: Trace) -> dict[int, dict[tuple[str, int], list[int]]]:
    """For each removable unit, the positions of its slices by parameter path and dimension."""
    makers: dict[int, dict[tuple[str, int], list[int]]] = {}
    for where, slices in trace.slices.items():
        roots = listed(trace.units.roots(slices.labels))
        for position, root in enumerate(roots):
            if root >= 0 and trace.units.reason(root) is None:
                slices_by_root = makers.setdefault(root, {})
                slices_by_root.setdefault(where, []).append(position)
    return makers


def _slices_of(positions: Mapping[tuple[str, int], list[int]]) -> list[ParameterSlices]:
    return [(path, dim, tuple(indices)) for (path, dim), indices in positions.items()]


def check_counts(counts: Any) -> None:
    """Refuse anything but counts.

    Raises:
        TypeError: The value is something else.
    """
    if not isinstance(counts, MacCounts):
        raise TypeError(f"counts come from l0func.count_macs; got {type(counts).__name__}.")


def expected_macs(gates: Tree, spec: GateSpec, counts: MacCounts) -> Tensor:
    r"""Expected multiply-adds in the counted call.

    .. math:: \sum_j n_j \prod_{g \in j} P(z_g \ne 0)

    over parameter entries :math:`j`, each used :math:`n_j` times, and its distinct gates. A
    product between activations counts while its units are open, and needs every gate that covers
    such a unit as a whole. Differentiable: it can be the penalty in place of the L0 norm.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        counts: The counts from :func:`count_macs`.

    Returns:
        Multiply-adds, a scalar.

    Raises:
        TypeError: ``counts`` is not from :func:`count_macs`.
        ValueError: Gates do not fit the spec, or the counts are another network's.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2, bias=False))
        >>> spec = l0.gate_spec(params, {"weight": l0.axis(0)})
        >>> counts = l0.count_macs(fn, params, buffers, torch.ones(1, 3))
        >>> l0.expected_macs({"weight": torch.tensor([-3.0, 3.0])}, spec, counts)
        tensor(3.5629)
    """
    named = check_gates(gates, spec)
    check_counts(counts)
    opens = {g.name: g.distribution.prob_nonzero(named[g.name]) for g in spec.gates}
    return macs_of(opens, spec, counts)


def realised_macs(
    gates: Tree, spec: GateSpec, counts: MacCounts, estimator: MaskEstimator = "louizos"
) -> int:
    """Multiply-adds under test-time gates: only entries behind open gates count.

    Where all gates belong to groups, this is the count for the compacted network.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        counts: The counts from :func:`count_macs`.
        estimator: The test-time gates.

    Returns:
        Multiply-adds in the counted call.

    Raises:
        TypeError: ``counts`` is not from :func:`count_macs`.
        ValueError: Gates do not fit the spec, one is NaN, or the counts are another network's.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2, bias=False))
        >>> spec = l0.gate_spec(params, {"weight": l0.axis(0)})
        >>> counts = l0.count_macs(fn, params, buffers, torch.ones(1, 3))
        >>> l0.realised_macs({"weight": torch.tensor([-3.0, 3.0])}, spec, counts)
        3
    """
    named = check_gates(gates, spec)
    check_counts(counts)
    check_values(named)
    z = deterministic_gates(named, spec, estimator)
    opens = {name: (value != 0).double() for name, value in z.items()}
    return round(float(macs_of(opens, spec, counts)))


def macs_of(opens: Gates, spec: GateSpec, counts: MacCounts) -> Tensor:
    """Multiply-adds with every gate open by a weight.

    Args:
        opens: ``{gate name: weight of each gate}``: a probability, or 0 or 1.
        spec: The gate spec.
        counts: The counts from :func:`count_macs`.

    Returns:
        Multiply-adds, a scalar.

    Raises:
        ValueError: The counts are another network's.
    """
    return macs_of_each([counts], opens, spec)[0]


def macs_of_each(counts: Sequence[MacCounts], opens: Gates, spec: GateSpec) -> list[Tensor]:
    """:func:`macs_of` for several counts, in one collective if gates are DTensors."""
    parameters = {p.path: p for p in spec.parameters}
    for own in counts:
        _check_same_network(own, parameters)
    like = next(iter(opens.values()), torch.zeros(()))
    start = torch.zeros((), dtype=like.dtype, device=like.device)
    terms = [_terms_of(own, opens, parameters, start) for own in counts]
    sums = totals(terms, start)
    for i, own in enumerate(counts):
        if own.products:
            sums[i] = sums[i] + macs_of_products(opens, own.products, spec.parameters, start)
    return sums


def _check_same_network(counts: MacCounts, parameters: Mapping[str, ParameterPlan]) -> None:
    for path, size in counts.sizes.items():
        if path in parameters and parameters[path].size != size:
            raise ValueError(
                f"The counts are another network's: {path!r} has {size} entries there, and "
                f"{parameters[path].size} in the spec."
            )
    known = counts.uses.keys() & parameters.keys()
    names.check_names(known, counts.uses, "the spec", "the counts")


def _terms_of(
    counts: MacCounts, opens: Gates, parameters: Mapping[str, ParameterPlan], like: Tensor
) -> Iterator[Term]:
    """For each parameter the multiply-adds with its entries."""
    for path, uses in counts.uses.items():
        p = parameters[path]
        if not p.bindings:
            yield Term(uses.expand(p.shape).sum().to(like))
            continue
        probability = p.spread(opens, owned=True)
        if uses.dim() == 0:
            # A number, not a tensor on the CPU, which a card would wait for.
            yield entry_term(probability, p, uses.to(probability.dtype))
        else:
            own = uses.to(device=probability.device, dtype=probability.dtype)
            # In float64 open gates are counted exactly: shards add up to the same bits.
            yield Term(weighted_term(probability, own).values.double())

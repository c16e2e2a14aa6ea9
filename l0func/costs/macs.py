"""Multiply-adds of a network under its gates: dense, expected and realised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0func.gates.checks import Gates, MaskEstimator, check_gates, check_values
from l0func.gates.masks import deterministic_gates
from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.internal.untyped import listed
from l0func.pure.functional import PureModule, check_function
from l0func.spec.plan import GateSpec, ParameterPlan
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace

ParameterSlices = tuple[str, int, tuple[int, ...]]
"""A path, a dimension and indices along it."""


@dataclass(frozen=True)
class ActivationProduct:
    """Products between activations that the same units take part in, such as the scores of one
    attention head.

    Attributes:
        macs: Multiply-adds.
        slices: ParameterSlices of parameters that make these units.
    """

    macs: int
    slices: tuple[ParameterSlices, ...]


@dataclass(frozen=True)
class MacCounts:
    """What one call multiplies, with every gate open.

    Attributes:
        uses: ``{parameter path: how often an entry is multiplied}``: a scalar, or a tensor of the
            parameter's shape.
        products: Products between activations.
        sizes: Numbers of entries of the parameters in ``uses``.
    """

    uses: Mapping[str, Tensor]
    products: tuple[ActivationProduct, ...]
    sizes: Mapping[str, int]

    @property
    def by_parameter(self) -> dict[str, int]:
        """Multiply-adds with the entries of each parameter."""
        return {
            path: int(uses * self.sizes[path] if uses.dim() == 0 else uses.sum())
            for path, uses in self.uses.items()
        }

    @property
    def total(self) -> int:
        """Multiply-adds of the call."""
        return sum(self.by_parameter.values()) + sum(product.macs for product in self.products)

    def only(self, paths: Iterable[str]) -> MacCounts:
        """The multiply-adds with some of the parameters, without products between activations."""
        kept = [path for path in paths if path in self.uses]
        return MacCounts(
            {path: self.uses[path] for path in kept}, (), {path: self.sizes[path] for path in kept}
        )


def count_macs(fn: PureModule, params: Tree, buffers: Tree, /, *inputs: Any) -> MacCounts:
    """Count the multiply-adds of one call, by running it once and seeing how often each parameter
    entry is used.

    Counted are matrix products and convolutions, attention and recurrent layers as the products
    that they consist of: half of what ``torch.utils.flop_counter`` says.

    Args:
        fn: What ``make_functional`` or ``compact`` returned.
        params: Its parameters, flat or nested.
        buffers: Its buffers.
        *inputs: The inputs of its ``forward``; the counts are for all their rows.

    Returns:
        The counts, for :func:`expected_macs` and :func:`realised_macs`; ``.total`` is the dense
        number.

    Raises:
        TypeError: ``fn`` is not what ``make_functional`` returned.
        ValueError: The trees do not fit ``fn``, or forward branches on data.

    Example:
        >>> import l0func as l0
        >>> l0.count_macs(*l0.make_functional(torch.nn.Linear(4, 3)), torch.ones(5, 4)).total
        60
    """
    check_function(fn)
    trace = follow(fn, tree.leaves(params), tree.leaves(buffers, "buffers"), inputs)
    sizes = {path: torch.Size(trace.shapes[path]).numel() for path in trace.uses}
    return MacCounts(dict(trace.uses), tuple(_products(trace)), sizes)


def _products(trace: Trace) -> Iterator[ActivationProduct]:
    makers: dict[int, dict[tuple[str, int], list[int]]] = {}
    for where, slices in trace.slices.items():
        for position, root in enumerate(listed(trace.units.roots(slices.labels))):
            if root >= 0 and trace.units.reason(root) is None:
                makers.setdefault(root, {}).setdefault(where, []).append(position)
    merged: dict[tuple[ParameterSlices, ...], int] = {}
    for pair, macs in trace.products.items():
        roots = sorted({trace.units.root(label) for label in pair if label >= 0})
        slices = tuple(
            (*where, tuple(at)) for root in roots for where, at in makers.get(root, {}).items()
        )
        merged[slices] = merged.get(slices, 0) + macs
    yield from (ActivationProduct(macs, slices) for slices, macs in merged.items())


def expected_macs(gates: Tree, spec: GateSpec, counts: MacCounts) -> Tensor:
    r"""Expected multiply-adds of the call that was counted.

    .. math:: \sum_j n_j \prod_{g \in j} P(z_g \ne 0)

    over parameter entries :math:`j`, each used :math:`n_j` times, and its distinct gates; a
    product between activations needs the gates that the units taking part are wholly behind.
    Differentiable: it can be the penalty in place of the L0 norm.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        counts: What :func:`count_macs` returned.

    Returns:
        Multiply-adds, a scalar.

    Raises:
        ValueError: Gates do not fit the spec, or the counts are another network's.
    """
    named = check_gates(gates, spec)
    return macs_of(
        {g.name: g.distribution.prob_nonzero(named[g.name]) for g in spec.gates}, spec, counts
    )


def realised_macs(
    gates: Tree, spec: GateSpec, counts: MacCounts, estimator: MaskEstimator = "louizos"
) -> int:
    """Multiply-adds with entries behind open gates only: for gates of groups, those of the
    compacted network.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        counts: What :func:`count_macs` returned.
        estimator: The test-time gates.

    Returns:
        Multiply-adds of the call that was counted.

    Raises:
        ValueError: Gates do not fit the spec, one is NaN, or the counts are another network's.
    """
    named = check_gates(gates, spec)
    check_values(named)
    z = deterministic_gates(named, spec, estimator)
    return round(
        float(macs_of({name: (value != 0).double() for name, value in z.items()}, spec, counts))
    )


def macs_of(opens: Gates, spec: GateSpec, counts: MacCounts) -> Tensor:
    """Multiply-adds with every gate open by the given weight: a probability, or 0 or 1."""
    parameters = {p.path: p for p in spec.parameters}
    for path, size in counts.sizes.items():
        if path in parameters and parameters[path].size != size:
            raise ValueError(
                f"The counts are of a network whose {path!r} has {size} entries; the spec's has "
                f"{parameters[path].size}."
            )
    names.check_names(
        counts.uses.keys() & parameters.keys(), counts.uses, "The spec, unlike the counts,"
    )
    total = next(iter(opens.values())).new_zeros(()) if opens else torch.zeros(())
    for path, uses in counts.uses.items():
        total = total + _of_parameter(opens, parameters[path], uses).to(total)
    for product in counts.products:
        total = total + product.macs * _together(opens, product.slices, parameters)
    return total


def _of_parameter(opens: Gates, p: ParameterPlan, uses: Tensor) -> Tensor:
    if not p.bindings:
        return uses.expand(p.shape).sum()
    probability = p.spread(opens, owned=True)
    if uses.dim() == 0:
        return probability.sum() * (p.size / max(probability.numel(), 1)) * uses.to(probability)
    return (probability * uses.to(probability)).sum()


def _together(
    opens: Gates, slices: tuple[ParameterSlices, ...], parameters: Mapping[str, ParameterPlan]
) -> Tensor | float:
    """The probability that the distinct gates are open that units are wholly behind."""
    distinct = {
        gate
        for path, dim, at in slices
        if path in parameters
        for gate in _gates_on(parameters[path], dim, at)
    }
    probability: Tensor | float = 1.0
    for name, number in sorted(distinct):
        probability = probability * opens[name][number]
    return probability


def _gates_on(p: ParameterPlan, dim: int, indices: tuple[int, ...]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for gate in {binding.gate for binding in p.bindings}:
        # A gate may have several rules on one tensor, such as a head's rows in each third of a
        # packed projection.
        rules = [binding.rule for binding in p.bindings if binding.gate == gate]
        numbers = {max(rule.number(index, dim, p.shape) for rule in rules) for index in indices}
        if len(numbers) == 1 and -1 not in numbers:
            found.append((gate, numbers.pop()))
    return found

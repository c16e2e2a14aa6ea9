"""Products between activations under gates: each needs every gate that covers such a unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from l0func.gates.checks import Gates
from l0func.internal.constants import whole_numbers
from l0func.internal.context import compiling
from l0func.internal.shards import whole_of
from l0func.spec.plan import ParameterPlan
from l0func.spec.rules import Rule, Shape

ParameterSlices = tuple[str, int, tuple[int, ...]]
"""A parameter path, a dimension and indices along it."""


@dataclass(frozen=True)
class ActivationProduct:
    """Products between the activations of the same units, such as one attention head's scores.

    Attributes:
        macs: Multiply-adds.
        slices: The parameter slices that make these units.
    """

    macs: int
    slices: tuple[ParameterSlices, ...]


@dataclass(frozen=True)
class _Covered:
    """Products that need one gate from each of the same places, such as one vector's heads."""

    names: tuple[str, ...]
    """The gate vectors; a vector stands here once for each of its gates that a product needs."""

    numbers: tuple[tuple[int, ...], ...]
    """For each of the vectors the number of the gate, product by product."""

    macs: tuple[int, ...]


def macs_of_products(
    opens: Gates,
    products: tuple[ActivationProduct, ...],
    parameters: tuple[ParameterPlan, ...],
    zero: Tensor,
) -> Tensor:
    """Multiply-adds of products between activations with every gate open by a weight.

    Args:
        opens: ``{gate name: weight of each gate}``: a probability, or 0 or 1.
        products: The products.
        parameters: The plans of the parameters.
        zero: A scalar of the result's dtype and device.

    Returns:
        A scalar.
    """
    total = zero
    wholes: Gates = {}
    # To find the gates takes longer than all that is computed with them.
    found = _covered if compiling() else _last_covered
    for covered in found(products, parameters):
        open_macs = whole_numbers(covered.macs, zero.device).to(zero.dtype)
        for name, numbers in zip(covered.names, covered.numbers, strict=True):
            if name not in wholes:
                wholes[name] = whole_of(opens[name])
            open_macs = open_macs * wholes[name][whole_numbers(numbers, zero.device)]
        total = total + open_macs.sum()
    return total


def gates_of_products(
    products: tuple[ActivationProduct, ...], parameters: tuple[ParameterPlan, ...]
) -> list[str]:
    """The names of the gate vectors behind some products."""
    found: dict[str, None] = {}
    for covered in _last_covered(products, parameters):
        found.update(dict.fromkeys(covered.names))
    return list(found)


def _covered(
    products: tuple[ActivationProduct, ...], parameters: tuple[ParameterPlan, ...]
) -> list[_Covered]:
    plans = {p.path: p for p in parameters}
    rows: dict[tuple[str, ...], list[tuple[int, list[int]]]] = {}
    for product in products:
        needed = sorted(_gates_of(product, plans))
        names = tuple([name for name, _ in needed])
        rows.setdefault(names, []).append((product.macs, [number for _, number in needed]))
    found: list[_Covered] = []
    for names, own in rows.items():
        numbers = tuple(zip(*(row for _, row in own), strict=True))
        found.append(_Covered(names, numbers, tuple([macs for macs, _ in own])))
    return found


_last_covered = lru_cache(maxsize=64)(_covered)


def _gates_of(
    product: ActivationProduct, plans: Mapping[str, ParameterPlan]
) -> set[tuple[str, int]]:
    """The name and number of every gate with a whole slice of the product's units."""
    distinct: set[tuple[str, int]] = set()
    for path, dim, indices in product.slices:
        if path in plans:
            distinct.update(_gates_on(plans[path], dim, indices))
    return distinct


def _gates_on(p: ParameterPlan, dim: int, indices: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """The name and number of each gate that covers all the given slices."""
    # A gate may have several rules on one tensor, such as a head's slices in each third of a
    # packed projection.
    rules_of: dict[str, list[Rule]] = {}
    for binding in p.bindings:
        rules_of.setdefault(binding.gate, []).append(binding.rule)
    for gate, rules in rules_of.items():
        numbers = {_number(rules, index, dim, p.shape) for index in indices}
        if len(numbers) == 1 and -1 not in numbers:
            yield gate, numbers.pop()


def _number(rules: list[Rule], index: int, dim: int, shape: Shape) -> int:
    """The number of the gate that one of the rules puts on a slice, or -1 if none does."""
    return max(rule.number(index, dim, shape) for rule in rules)

"""Several sums in one call: each group has its own terms."""

from __future__ import annotations

import pytest
import torch

from l0func.costs.terms import Term, totals


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3, 1), (0, 2), (3, 0, 1)])
def test_each_group_has_the_sum_of_its_own_terms(sizes):
    numbers = iter(range(1, 100))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    terms = [[Term(torch.full((3,), float(n)), (2.0, 5.0)) for n in group] for group in groups]
    found = totals(iter(group) for group in terms)
    assert [float(total) for total in found] == [30.0 * sum(group) for group in groups]
    start = torch.zeros((), dtype=torch.float64)
    assert all(total.dtype == torch.float64 for total in totals(terms, start))

"""The runs of a trial tell any two groups apart, and are few."""

from __future__ import annotations

from itertools import permutations

import pytest

from l0func.compaction.closings import closings


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 10, 11, 21, 36, 71])
@pytest.mark.parametrize("size", [2, 5])
def test_of_any_two_groups_each_loses_units_while_the_other_keeps_all(count, size):
    runs = [run.counts for run in closings([size] * count)]
    for lost in (1, size - 1):
        alone = [run for run in runs if set(run) <= {0, lost}]
        for first, second in permutations(range(count), 2):
            assert any(run[first] == lost and run[second] == 0 for run in alone)


@pytest.mark.parametrize(("count", "most"), [(2, 12), (9, 18), (24, 22), (40, 24), (1000, 34)])
def test_the_runs_grow_with_the_logarithm_of_the_number_of_groups(count, most):
    assert len(list(closings([8] * count))) <= most


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_every_run_closes_units_and_leaves_one_in_each_group(count):
    sizes = list(range(2, 2 + count))
    for run, _ in closings(sizes, [3, 4]):
        assert any(run)
        assert all(0 <= closed < size for closed, size in zip(run, sizes, strict=True))


@pytest.mark.parametrize("sizes", [[2], [3], [2, 7], [1, 4]])
def test_each_end_of_every_group_is_closed_alone(sizes):
    runs = list(closings(sizes))
    one = tuple(min(1, size - 1) for size in sizes)
    assert {"first", "last"} <= {run.which for run in runs if run.counts == one}

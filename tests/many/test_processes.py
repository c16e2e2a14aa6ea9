"""The processes of the tests: they form one group, answer by rank, and report what failed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import FailedRank, processes
from torch import distributed

untyped_distributed: Any = distributed


def _sum_of_ranks() -> tuple[int, float]:
    total = torch.tensor([float(distributed.get_rank())])
    untyped_distributed.all_reduce(total)
    return distributed.get_rank(), float(total)


def _one_fails(which: int) -> None:
    if distributed.get_rank() == which:
        raise ValueError("on purpose")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_form_one_group(size: int) -> None:
    total = float(sum(range(size)))
    assert processes(size).run(_sum_of_ranks) == [(rank, total) for rank in range(size)]


def test_a_failure_names_its_rank_and_leaves_the_next_check_a_new_group() -> None:
    with pytest.raises(FailedRank, match=r"rank 1 of a group(.|\n)*on purpose"):
        processes(2).run(_one_fails, 1)
    assert processes(2).run(_sum_of_ranks) == [(0, 1.0), (1, 1.0)]

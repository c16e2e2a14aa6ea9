"""The processes of the tests: they form one group, answer by rank, and report what failed."""

from __future__ import annotations

import importlib
import time
from typing import Any

import pytest
import torch
from processes import FailedRank, Processes, from_first, processes
from torch import distributed

untyped_distributed: Any = distributed


def test_tests_of_shards_find_what_says_whether_they_can_run():
    # They skip where it is missing.
    assert importlib.import_module("shards_here").REASON


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


def _one_stays(which: int) -> None:
    if distributed.get_rank() == which:
        time.sleep(600)


def test_a_process_that_hangs_is_named_in_bounded_time() -> None:
    group = Processes(2)
    # The first check has the time that a loaded machine needs to start the group.
    group.run(_sum_of_ranks)
    begun = time.monotonic()
    with pytest.raises(FailedRank, match="rank 1 did not answer within 1 seconds"):
        group.run(_one_stays, 1, seconds=1)
    assert time.monotonic() - begun < 60


def _one_waits_for_one_that_fails() -> None:
    _one_fails(1)
    untyped_distributed.barrier()


def test_those_that_wait_for_a_process_that_failed_are_given_up_soon() -> None:
    group = Processes(2)
    begun = time.monotonic()
    with pytest.raises(FailedRank, match=r"on purpose"):
        group.run(_one_waits_for_one_that_fails)
    assert time.monotonic() - begun < 60


def _rank_of_first() -> tuple[int, int]:
    return distributed.get_rank(), from_first(distributed.get_rank)


def test_what_the_first_process_finds_all_have() -> None:
    assert processes(3).run(_rank_of_first) == [(0, 0), (1, 0), (2, 0)]

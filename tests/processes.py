"""Groups of forked processes, joined by gloo over loopback, that run one check after another."""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import l0func as l0

SECONDS = 300
"""A guard against checks that hang, and no measure: a loaded machine takes its time.

A collective has half of it: processes that wait for another say so before they are given up.
"""
AFTER_A_FAILURE = 2
"""The others may wait for a process that has failed: they are given up soon."""
untyped_distributed: Any = distributed
_FORK = multiprocessing.get_context("fork")
_SHARED_MODULES = (
    "numba",
    "torch._dynamo",
    "torch._dynamo.backends.debugging",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.debug",
    "torch.distributed.tensor.parallel",
)
"""What checks import at their first use: a second for every process, if not before the fork."""
_GROUPS: dict[int, Processes] = {}


class FailedRank(AssertionError):
    """The first process whose check failed, with its traceback."""


class Processes:
    """A number of processes that form one group.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        prepare()
        meeting = Path(tempfile.mkdtemp()) / "meeting"
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(size):
            ours, theirs = _FORK.Pipe()
            process = _FORK.Process(target=_serve, args=(theirs, rank, size, meeting), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of forks beside threads: the children use none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, check: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> list[Any]:
        """What a function at the top of a module returns in every process, by rank.

        Raises:
            FailedRank: It raised in one of them; the group is no longer used.
        """
        for pipe in self._pipes:
            pipe.send((check, args))
        answers = self._answers(time.monotonic() + seconds)
        silent = [rank for rank in range(self.size) if rank not in answers]
        failures = [text for failed, text in answers.values() if failed]
        reason = "when another had failed" if failures else f"within {seconds} seconds"
        failures += [f"rank {rank} did not answer {reason}" for rank in silent]
        if failures:
            self.close()
            raise FailedRank("\n".join(failures))
        return [answers[rank][1] for rank in range(self.size)]

    def _answers(self, ends: float) -> dict[int, tuple[bool, Any]]:
        """Whether each process failed, and its answer; without those that took too long."""
        found: dict[int, tuple[bool, Any]] = {}
        while len(found) < self.size:
            silent = [rank for rank in range(self.size) if rank not in found]
            pipes = [self._pipes[rank] for rank in silent]
            ready = wait(pipes, max(0.0, ends - time.monotonic()))
            if not ready:
                break
            found |= {rank: self._answer(rank) for rank in silent if self._pipes[rank] in ready}
            if any(failed for failed, _ in found.values()):
                ends = min(ends, time.monotonic() + AFTER_A_FAILURE)
        return found

    def _answer(self, rank: int) -> tuple[bool, Any]:
        try:
            return self._pipes[rank].recv()
        except EOFError:
            return True, f"rank {rank} ended"

    def close(self) -> None:
        """End the processes."""
        if _GROUPS.get(self.size) is self:
            del _GROUPS[self.size]
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            # One that waits for the others inside of gloo may not hear.
            process.join(AFTER_A_FAILURE)
            process.kill()
            process.join()


def processes(size: int) -> Processes:
    """The group of this size, started at its first use in this process."""
    if size not in _GROUPS:
        _GROUPS[size] = Processes(size)
    return _GROUPS[size]


def from_first(call: Callable[[], Any]) -> Any:
    """What a call returns in the first process, for all: what is to be expected is found once."""
    found = [call() if untyped_distributed.get_rank() == 0 else None]
    untyped_distributed.broadcast_object_list(found)
    return found[0]


@cache
def prepare() -> None:
    """Do once what every process would do for itself after the fork."""
    for name in _SHARED_MODULES:
        # Some need a newer torch, or an extra.
        with suppress(ImportError):
            importlib.import_module(name)
    # The first kernel sets the compiler of kernels up.
    spec = l0.gate_spec({"w": torch.ones(2, 2)})
    l0.sample_masks(l0.random.key(0), l0.init_gates(l0.random.key(0), spec), spec)


def _serve(pipe: Connection, rank: int, size: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    # Checks collect garbage; without this each time looks at all objects of all modules.
    gc.freeze()
    # gloo asks for the host's name otherwise, which may not resolve.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=SECONDS / 2),
    )
    parent = os.getppid()
    while os.getppid() == parent:
        # A parent that was killed closes no pipe: its other children hold copies of the end.
        if not pipe.poll(1):
            continue
        check, args = pipe.recv()
        pipe.send(_tried(check, args, rank))
        # An object of DistributedDataParallel that outlives its group can hang gloo.
        gc.collect()


def _tried(check: Callable[..., Any], args: tuple[Any, ...], rank: int) -> tuple[bool, Any]:
    try:
        return False, check(*args)
    except BaseException:
        return True, f"rank {rank} of a group:\n{traceback.format_exc()}"


@atexit.register
def _close_all() -> None:
    for group in list(_GROUPS.values()):
        group.close()

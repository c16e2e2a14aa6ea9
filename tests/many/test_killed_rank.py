"""A process that is killed: the others end with an error, and a relaunch has the same bits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from itertools import starmap
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import one_in, sampled
from torch import distributed, nn
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out
from processes import prepare
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

# Imported before the fork: every child would take a second for it.
assert checkpoint.FileSystemReader
FORK = multiprocessing.get_context("fork")
SIZE, STEPS, FATAL = 3, 3, 2
SECONDS = 10
X = l0.random.normal(l0.random.key(5), (12, 6))
Y = X[:, :3].argmax(1)
FN, PARAMS, BUFFERS = l0.make_functional(
    nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
)
SPEC = l0.gate_spec(PARAMS, {"*weight": l0.element(), "*": None})
LAYOUTS = {"0.weight": Shard(0), "0.bias": Shard(0), "2.weight": Shard(1), "2.bias": Replicate()}


def _penalty(params: Any, gates: Any) -> torch.Tensor:
    return l0.penalty(params, gates, SPEC, lam=1e-3)


def _loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any, y: Any) -> torch.Tensor:
    output = l0.gated(FN, SPEC)(params, gates, buffers, key, x)
    whole = output.full_tensor() if isinstance(output, DTensor) else output
    return F.cross_entropy(whole, y)


def _start(is_dtensor: bool) -> tuple[l0.Training, l0.TrainState, tuple[torch.Tensor, ...]]:
    """The training, its first state, and this process's batch."""
    adam = l0.optimizer(torch.optim.Adam, lr=0.05)
    gates = l0.init_gates(l0.random.key(0), SPEC)
    key = l0.random.key(1)
    if not is_dtensor:
        training = l0.training(_loss, adam, adam, penalty=_penalty, reduce=l0.all_reduce_mean)
        rows = slice(distributed.get_rank(), None, SIZE)
        return training, training.init(key, PARAMS, gates, BUFFERS), (X[rows], Y[rows])
    mesh = init_device_mesh("cpu", (SIZE,))
    params = {path: laid_out(p.detach(), mesh, [LAYOUTS[path]]) for path, p in PARAMS.items()}
    training = l0.training(_loss, adam, adam, penalty=_penalty)
    state = training.init(key, params, l0.place_gates(SPEC, params, gates), BUFFERS)
    return training, state, (laid_out(X, mesh, [Replicate()]), Y)


def _last(folder: Path, state: l0.TrainState) -> tuple[l0.TrainState, list[str]]:
    """The state of the last whole checkpoint, and the refusals of later ones."""
    refusals: list[str] = []
    for path in sorted(folder.glob("step_*"), reverse=True):
        try:
            return l0.load_shards(path, state, SPEC), refusals
        except ValueError as error:
            refusals.append(str(error))
    return state, refusals


def _train(folder: Path, is_dtensor: bool, die: Callable[[str], None]) -> Any:
    """The first step of this launch, what was refused, and the bytes of the last state."""
    training, first, batch = _start(is_dtensor)
    state, refusals = _last(folder, first)
    begun = int(state.step)
    for step in range(begun + 1, STEPS + 1):
        if step == FATAL:
            die("a step")
        state, _ = training.step(state, *batch)
        if step == FATAL:
            die("a save")
        l0.save_shards(folder / f"step_{step}", state, SPEC)
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(l0.gather(state))
    tensors = {str(path): t.detach() for path, t in leaves if isinstance(t, torch.Tensor)}
    return begun, refusals, {path: t.numpy().tobytes() for path, t in tensors.items()}


def _kill_self(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at_call(name: str, number: int) -> None:
    """Let this process die in a call of the system."""
    usual, left = getattr(os, name), [number]

    def call(*args: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            if name == "fsync":
                # As where half of the file is not on the disk yet.
                os.truncate(args[0], os.fstat(args[0]).st_size // 2)
            _kill_self()
        return usual(*args)

    setattr(os, name, call)


# For each: the rank, when it dies, and the call of the system that it dies in.
DEATHS: dict[str, tuple[int, str, tuple[str, int] | None]] = {
    "in a step": (1, "a step", None),
    "while its part is written": (1, "a save", ("fsync", 1)),
    "while the first process writes its part": (0, "a save", ("fsync", 1)),
    "while the list of parts is written": (0, "a save", ("fsync", 2)),
    "before the list has its name": (0, "a save", ("rename", 1)),
    "before the list has its digest": (0, "a save", ("replace", 1)),
}


def _live(pipe: Connection, rank: int, meeting: Path, death: str, *run: Any) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    limit = {"timeout": timedelta(seconds=60)}
    place = f"file://{meeting}"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=SIZE, **limit)
    doomed, moment, call = DEATHS.get(death, (None, "", None))

    def die(now: str) -> None:
        if (rank, now) == (doomed, moment):
            if call is None:
                _kill_self()
            else:
                _kill_at_call(*call)

    try:
        pipe.send((True, _train(*run, die)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _launch(folder: Path, is_dtensor: bool, death: str = "") -> list[Any]:
    """What each process answers, by rank; None for one that died."""
    prepare()
    meeting = folder.parent / f"meeting {time.monotonic_ns()}"
    pipes, children = [], []
    for rank in range(SIZE):
        ours, theirs = FORK.Pipe(duplex=False)
        run = (theirs, rank, meeting, death, folder, is_dtensor)
        child = FORK.Process(target=_live, args=run, daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    if death:
        wait([children[DEATHS[death][0]].sentinel], 60)
    # From the death on; a launch without one may take its time.
    ends = time.monotonic() + (SECONDS if death else 60)
    answers = [_answer(pipe, ends) for pipe in pipes]
    for child in children:
        child.join(max(0.1, ends - time.monotonic()))
        assert child.exitcode is not None, f"a process outlived {death} by {SECONDS} seconds"
    return answers


def _answer(pipe: Connection, ends: float) -> Any:
    assert pipe.poll(max(0.0, ends - time.monotonic())), "a process does not answer"
    try:
        return pipe.recv()
    except EOFError:
        return None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Callable[[bool], list[Any]]:
    """The ends of a run that nothing disturbs, with sharded tensors or without."""

    @cache
    def run(is_dtensor: bool) -> list[Any]:
        return _launch(tmp_path_factory.mktemp("run") / "whole", is_dtensor)

    return run


CASES = [(death, False) for death in DEATHS] + [("while its part is written", True)]


@pytest.mark.parametrize(("death", "is_dtensor"), sampled(starmap(pytest.param, CASES), one_in(3)))
def test_the_others_end_with_an_error_and_a_relaunch_has_the_bits_of_one_run(
    death, is_dtensor, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    answers = _launch(folder, is_dtensor, death)
    doomed = DEATHS[death][0]
    for rank, answer in enumerate(answers):
        if rank == doomed:
            assert answer is None
        else:
            assert answer[0] is False, answer
            assert "Error" in answer[1]
    again = _launch(folder, is_dtensor)
    for (is_well, own), (_, whole) in zip(again, uninterrupted(is_dtensor), strict=True):
        assert is_well, own
        begun, refusals, state = own
        assert begun == FATAL - 1
        begun_to_write = (folder / f"step_{FATAL}").exists()
        assert len(refusals) <= int(begun_to_write)
        assert all("step_2 has no whole checkpoint" in text for text in refusals)
        assert state == whole[2]

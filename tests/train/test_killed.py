"""A training that is killed at any moment goes on to the bits of one that never was."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from comparing import equal
from interrupting import forked
from loads import batch, training_of

import l0func as l0

pytestmark = [
    pytest.mark.on_cpu,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a process forks where its system can"),
]
TRAINING, FIRST, SPEC = training_of()


def save(folder: Path, state: l0.TrainState) -> None:
    l0.save_state(folder / "state", state, SPEC)


def load(folder: Path) -> l0.TrainState:
    path = folder / "state"
    return l0.load_state(path, FIRST, SPEC) if path.exists() else FIRST


def save_shards(folder: Path, state: l0.TrainState) -> None:
    l0.save_shards(folder / f"{int(state.step):05d}", state, SPEC)


def load_shards(folder: Path) -> l0.TrainState:
    """The last whole checkpoint, or the first state."""
    for path in sorted(folder.glob("*"), reverse=True):
        with suppress(ValueError):
            return l0.load_shards(path, FIRST, SPEC)
    return FIRST


has_shards = importlib.util.find_spec("torch.distributed.tensor.debug") is not None
SHARDS = pytest.mark.skipif(not has_shards, reason="torch has no public DTensors")
WAYS = {"state": (save, load), "shards": (save_shards, load_shards)}


def train(folder: Path, way: str, steps: int) -> None:
    """Go on from the last checkpoint, with one after every step."""
    save_it, load_it = WAYS[way]
    state = load_it(folder)
    while int(state.step) < steps:
        state, _ = TRAINING.step(state, batch(int(state.step)))
        save_it(folder, state)


def uninterrupted(steps: int) -> Any:
    state = FIRST
    for number in range(steps):
        state, _ = TRAINING.step(state, batch(number))
    return state


def killed(folder: Path, way: str, kills: int, seconds: float) -> list[int]:
    """Train under kills at random moments; the number of whole steps after each."""
    rng, reached = random.Random(kills), [0]
    for number in range(kills):
        # Every second launch makes a step at least; the others may be killed before any.
        least = reached[-1] + number % 2
        is_under_way = partial(has_steps, folder, way, least)
        launch = partial(train, folder, way, steps=10**9)
        assert forked(launch, rng.uniform(0, seconds), is_under_way) == -signal.SIGKILL
        reached.append(steps_of(folder, way))
    return reached


def has_steps(folder: Path, way: str, least: int) -> bool:
    return steps_of(folder, way) >= least


def steps_of(folder: Path, way: str) -> int:
    return int(WAYS[way][1](folder).step)


@pytest.mark.parametrize("way", ["state", pytest.param("shards", marks=SHARDS)])
@pytest.mark.parametrize(
    ("kills", "seconds"), [(4, 0.05), pytest.param(20, 1.0, marks=pytest.mark.slow)]
)
def test_a_killed_training_goes_on_to_the_bits_of_one_that_never_was(
    way, kills, seconds, tmp_path
):
    reached = killed(tmp_path, way, kills, seconds)
    # What was saved is never lost, and there was something to go on from.
    assert reached == sorted(reached)
    assert reached[-1] >= kills // 2
    steps = reached[-1] + 5
    train(tmp_path, way, steps)
    found = WAYS[way][1](tmp_path)
    assert int(found.step) == steps
    assert equal(found, uninterrupted(steps))
    print(f"\n{way}: {kills} kills, after steps {reached[1:]}")

"""A training that is killed at any moment goes on to the bits of one that never was."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import time
from contextlib import suppress
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


def killed(folder: Path, way: str, steps: int, kills: int) -> list[int]:
    """Train under kills at random moments; the steps that were whole at each."""
    begun = time.monotonic()
    train(folder / "measured", way, 20)
    of_a_step = (time.monotonic() - begun) / 20
    rng, reached = random.Random(kills), []
    for _ in range(kills):
        # A kill now and then comes before the first step, and most in the midst of one.
        moment = rng.uniform(0, 0.8 * of_a_step * steps / kills)
        code = forked(lambda: train(folder / "run", way, steps), moment)
        assert code in (0, -signal.SIGKILL)
        reached.append(int(WAYS[way][1](folder / "run").step))
    return reached


@pytest.mark.parametrize("way", ["state", pytest.param("shards", marks=SHARDS)])
@pytest.mark.parametrize(
    ("steps", "kills"), [(40, 4), pytest.param(1000, 20, marks=pytest.mark.slow)]
)
def test_a_killed_training_goes_on_to_the_bits_of_one_that_never_was(way, steps, kills, tmp_path):
    for name in ("measured", "run"):
        (tmp_path / name).mkdir()
    reached = killed(tmp_path, way, steps, kills)
    # What was saved is never lost, and something was there to go on from.
    assert reached == sorted(reached)
    assert reached[-1] > 0
    train(tmp_path / "run", way, steps)
    found = WAYS[way][1](tmp_path / "run")
    assert int(found.step) == steps
    assert equal(found, uninterrupted(steps))
    print(f"\n{way}: {kills} kills, after steps {reached}")

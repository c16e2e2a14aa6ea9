"""The parts of examples/distributed.py: three ways beside one process, bytes, checkpoints."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")
pytest.importorskip("sklearn", reason="the example's digits are scikit-learn's")
pytest.importorskip("tqdm")

from one_mesh import mesh_of
from processes import processes
from torch.distributed.tensor.debug import CommDebugMode

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERS = 64 * 96 + 96 + 96 * 10 + 10
GATES = 64 * 96 + 96 * 10


def example(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)


def _run(way: str, size: int, folder: str, steps: int) -> Any:
    options = argparse.Namespace(folder=Path(folder), steps=steps, every=2, kill=None)
    found = example("distributed").train(way, mesh_of((size,)), options)
    gc.collect()
    # A pipe takes no objects of the example's classes.
    return found._asdict() | {"sent": (found.sent.bytes, found.sent.calls)}


def _expected(way: str, size: int) -> tuple[list[int], int, int]:
    """Bytes held and sent by rank 0, and collectives, by hand."""
    everything = 4 * (NUMBERS + GATES)
    if way == "DDP":
        # One bucket of all gradients, and a flag for each of six tensors.
        return [4 * NUMBERS, 4 * GATES, everything], everything + 4 * 6, 2
    hidden = 96 // size
    if way == "TP":
        # Rows of the first layer and its bias, columns of the second; its bias is whole.
        own = 64 * hidden + hidden + hidden * 10 + 10
        gates = 64 * hidden + hidden * 10
        # The outputs for 100 rows, and two scalars of the penalty in float64, in one message.
        return [4 * own, 4 * gates, 4 * (own + gates)], 4 * 100 * 10 + 2 * 8, 2
    rows = -(-10 // size)
    first, second = 64 * hidden + hidden, rows * 96 + rows
    gates = 64 * hidden + rows * 96
    held = [4 * (first + second), 4 * gates, 4 * (first + second + gates)]
    # Each layer is gathered in forward and backward, the gates once; padded slopes are scattered.
    sent = 4 * (2 * first + 2 * second + gates + size * (first + second + gates))
    return held, sent, 8


@pytest.mark.parametrize(("way", "size"), [("DDP", 3), ("FSDP2", 2), ("TP", 2)])
def test_a_way_is_one_process_to_rounding_and_holds_and_sends_what_arithmetic_says(
    way, size, tmp_path
):
    results = processes(size).run(_run, way, size, str(tmp_path / "run"), 5)
    held, sent, calls = _expected(way, size)
    for found in results:
        assert found["masks"]
        assert found["losses"] < 1e-6
        assert found["states"] < 1e-6
        assert found["alone"] == [4 * NUMBERS, 4 * GATES, 4 * (NUMBERS + GATES)]
    assert results[0]["held"] == held
    assert results[0]["sent"] == (sent, calls)
    assert {path.name for path in (tmp_path / "run" / way).iterdir()} == {"step_2", "step_4"}
    (tmp_path / "run" / way / "step_4" / ".metadata").unlink()
    # One that a process died over is passed over, and the relaunch goes on from the other.
    again = processes(size).run(_run, way, size, str(tmp_path / "run"), 5)
    assert [found["digest"] for found in again] == [found["digest"] for found in results]


def _collectives(size: int) -> tuple[int, int]:
    ways, sent = example("distributed_ways"), example("distributed_sent")
    run = ways.PureRun(ways.network(), "TP", mesh_of((size,)))
    x, y = l0.random.normal(l0.random.key(3), (8, 64)), torch.arange(8)
    run.step(x, y)
    with warnings.catch_warnings(), CommDebugMode() as counted, sent.Sent() as own:
        # CommDebugMode hooks modules that get no gradient for their inputs.
        warnings.filterwarnings("ignore", message="Full backward hook")
        run.state, _ = run.update(run.state, x, y)
    return counted.get_total_counts(), own.calls


def test_collectives_are_as_many_as_torch_counts():
    for theirs, own in processes(2).run(_collectives, 2):
        assert theirs == own > 0


def test_the_example_of_many_processes_says_how_to_start_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distributed.py"])
    # Python writes this text to the errors, and returns 1.
    with pytest.raises(SystemExit, match=r"^Start it with: torchrun --nproc-per-node 2 "):
        example("distributed").main()

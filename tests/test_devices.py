"""Calls on another device than the CPU, on a machine that has none: the device is pretence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pretend
import pytest
import torch

TESTS = Path(__file__).parent
CALLS = [
    "draws",
    "masks",
    "one_mask",
    "rows_by_entries",
    "rows_by_rows_and_columns",
    "rows_by_sums",
    "rows_of_a_convolution",
    "costs",
    "cuts",
    "training",
    "resumed",
    "resumed_from_before_the_first_step",
    "own_law",
    "units_beside_lengths",
]

pytestmark = pytest.mark.skipif(
    not pretend.AVAILABLE, reason="this torch takes no device that is written in Python"
)


def test_public_calls_stay_on_their_device_and_give_the_results_of_the_cpu() -> None:
    # torch keeps a new device for the whole process.
    command = [sys.executable, str(TESTS / "entry_points.py"), pretend.NAME]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"ok {call.replace('_', ' ')}" for call in CALLS]


def test_the_device_of_pretence_refuses_tensors_of_two_devices() -> None:
    code = (
        "import pretend, torch; pretend.start(); "
        "x = torch.ones(3, device='pretend'); print((x + x).sum().item()); x + torch.ones(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS)
    assert done.stdout == "6.0\n"
    assert "Expected all tensors to be on the same device" in done.stderr


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TESTS / "bench" / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_benchmark_says_that_there_is_no_gpu() -> None:
    done = _bench()
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "no GPU" in done.stdout


@pytest.mark.slow
def test_the_gpu_benchmark_runs_its_own_code_on_a_cpu(tmp_path: Path) -> None:
    done = _bench("--device", "cpu", "--quick", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["card"] == "cpu"
    assert len(report["rows"]) == 7

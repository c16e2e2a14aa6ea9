"""The full form of every example, which asserts its claims."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PICTURED = ["compact_cnn", "complexity", "gradient_noise", "lambda_path", "pixels", "quickstart"]


def run(name: str, *options: str, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURED)
def test_an_example_with_a_picture_holds_its_claims(name, tmp_path):
    assert run(name, "--picture", str(tmp_path / "picture.png"), cwd=tmp_path)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("target", ["0.2", "0.1", "0.05"])
def test_cooper_reaches_its_target(target, tmp_path):
    assert "of the weights kept" in run("cooper_target", "--target", target, cwd=tmp_path)


@pytest.mark.slow
def test_the_seeds_tasks_hold(tmp_path):
    assert "identity" in run("seed_tasks", cwd=tmp_path)


@pytest.mark.slow
def test_efficientnet_keeps_its_accuracy_at_a_quarter_of_its_multiply_adds(tmp_path):
    options = ["--method", "learned", "--folder", str(tmp_path), "--picture"]
    assert "learned, 25%" in run(
        "efficientnet", *options, str(tmp_path / "picture.png"), cwd=tmp_path
    )
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def launched(*options: str) -> subprocess.CompletedProcess[str]:
    """What comes of examples/distributed.py with two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launch, str(EXAMPLES / "distributed.py"), "--steps", "6", "--every", "2", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_a_run_on_two_processes_goes_on_after_a_kill_bit_for_bit(tmp_path):
    whole = launched("--folder", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    killed = launched("--folder", str(tmp_path / "run"), "--kill", "TP", "5")
    assert killed.returncode == 1
    assert "SIGKILL" in killed.stderr
    again = launched("--folder", str(tmp_path / "run"))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("The run goes on from ") == 3
    digests = [line for line in whole.stdout.splitlines() if line.startswith("SHA-256")]
    assert len(digests) == 3
    assert digests == [line for line in again.stdout.splitlines() if line.startswith("SHA-256")]


def test_scripts_are_short():
    for path in EXAMPLES.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 150, path.name

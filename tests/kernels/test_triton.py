"""The kernels in Triton, without a GPU: interpreted on the CPU, and compiled for absent cards."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from sampled import among, sampled

ROOT = Path(__file__).parents[2]


def _version() -> tuple[int, ...]:
    """Triton's version, without importing it; (0,) where there is none."""
    try:
        return tuple([int(number) for number in version("triton").split(".")[:2]])
    except PackageNotFoundError:
        return (0,)


needs_triton = pytest.mark.skipif(
    _version() < (3, 7),
    reason="the interpreter before Triton 3.7 has other gaps, or there is none",
)


def _run(script: str, arguments: list[str], **variables: str) -> str:
    # Triton reads the variable when it is imported, so each run has its own process.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, str(ROOT / "tests" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


CONTRACTS = {
    "gates": [
        "words_are_those_of_random",
        "streams_are_those_of_torch",
        "scalars_are_within_four_units_or_six_for_ndtr",
        "draws_are_those_of_torch",
        "moments_are_those_of_torch",
        "gates_have_the_same_bits_at_every_position",
    ],
    "products": [
        "products_are_those_of_masks_in_memory",
        "empty_sizes_give_empty_results",
        "every_grid_fits_a_card",
    ],
    "masked": [
        "masked_weights_are_those_of_masks_in_memory",
        "linear_maps_and_convolutions_are_those_of_torch",
    ],
}


@needs_triton
@pytest.mark.parametrize("family", sampled(CONTRACTS, among("masked")))
def test_interpreted_kernels_agree_with_torch(family: str) -> None:
    contracts = CONTRACTS[family]
    arguments = [*contracts, "--device", "cpu"]
    said = _run("triton_contracts.py", arguments, TRITON_INTERPRET="1")
    assert said.splitlines() == [f"ok {name.replace('_', ' ')}" for name in contracts]


@needs_triton
@pytest.mark.slow
def test_every_kernel_compiles_for_an_h100_without_spills_and_for_an_a100() -> None:
    # The interpreter takes code that the compiler refuses.
    said = _run("triton_builds.py", ["90", "80"], TRITON_INTERPRET="0")
    assert said.count("ok 90") == said.count("ok 80") > 10


def test_an_old_triton_is_refused_by_its_version(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text('__version__ = "2.1.0"\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    code = "import l0func.kernels.by_triton.api"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "ImportError: l0func needs Triton 3.3 or later, and finds 2.1.0" in done.stderr

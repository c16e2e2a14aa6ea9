"""What the tests share: the device, the compiler's mark, and the floor that has none."""

from __future__ import annotations

import os

import pytest
import torch

import l0func as l0
from tests import pretend

DEVICE = os.environ.get("L0FUNC_TEST_DEVICE", "cpu")
"""The device of every tensor that a test makes without naming one."""


def pytest_configure(config: pytest.Config) -> None:
    # The compiled kernel takes seconds for every shape; test_contraction holds it to the eager
    # one.
    l0.use_kernel("eager")
    if "PYTEST_XDIST_WORKER" in os.environ:
        # A worker for every core: threads of their own would only wait for each other.
        torch.set_num_threads(1)
    if DEVICE != "cpu":
        _choose_device()
    config.addinivalue_line(
        "markers", "compiles: runs torch.compile, which l0func refuses by name on torch 2.1"
    )


def _choose_device() -> None:
    if DEVICE == pretend.NAME:
        pretend.start()
    torch.set_default_device(DEVICE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if hasattr(torch.compiler, "is_compiling"):
        return
    for item in items:
        if item.get_closest_marker("compiles"):
            item.add_marker(
                pytest.mark.skip(reason="torch 2.1 is refused by name; see test_compose")
            )

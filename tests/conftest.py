"""What the tests share: the device, the compiler's mark, and the floor that has none."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pretend
import pytest
import torch
import torch.distributed.fsdp as fsdp
from device import DEVICE

import l0func as l0
from l0func.internal.context import compiles

KERNEL: Any = os.environ.get("L0FUNC_KERNEL", "auto")

ON_CPU = {
    "test_building.py",
    "test_contract_tiles.py",
    "test_devices.py",
    "test_docs.py",
    "test_earlier_files.py",
    "test_efficientnet_example.py",
    "test_example_options.py",
    "test_examples.py",
    "test_formats.py",
    "test_house.py",
    "test_imports.py",
    "test_labels.py",
    "test_moments.py",
    "test_network.py",
    "test_pool.py",
    "test_readme.py",
    "test_there_and_back.py",
    "test_triton.py",
}
"""About text, processes, the CPU, and what ``l0func.load`` gives back, which is on the CPU."""


@pytest.fixture(autouse=True)
def _same_kernel() -> Iterator[None]:
    """A test that chooses a kernel leaves the choice to the next test."""
    yield
    l0.use_kernel(KERNEL)


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        # A worker for every core: threads of their own would only wait for each other, and so
        # would those of the processes that tests start.
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
    if DEVICE != "cpu":
        _choose_device()
    config.addinivalue_line(
        "markers", "compiles: runs torch.compile, which l0func needs torch 2.9 for"
    )
    config.addinivalue_line("markers", "on_cpu: about the CPU, whatever the device of the suite")


def _choose_device() -> None:
    if DEVICE == pretend.NAME:
        pretend.start()
    # Convolutions in full float32, and the same bits twice, as on the CPU.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.set_default_device(DEVICE)


def pytest_collection_finish() -> None:
    # What the collection made stays to the end; without this every collection of garbage walks it.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {}
    if not compiles():
        reasons["compiles"] = "the compiler of this torch is refused; see test_old_compilers"
    if DEVICE == pretend.NAME:
        reasons["compiles"] = "torch has no compiler for a device of pretence"
    if DEVICE != "cpu":
        reasons["on_cpu"] = f"numpy, files, threads and printed tensors are not on {DEVICE}"
    has_shards = hasattr(fsdp, "fully_shard")
    for item in items:
        if isinstance(item, pytest.DoctestItem) and "_shards" in item.name and not has_shards:
            item.add_marker(pytest.mark.skip(reason="torch 2.6 spreads tensors over processes"))
        is_about_cpu = item.path.name in ON_CPU or "numba" in item.nodeid
        if isinstance(item, pytest.DoctestItem) or is_about_cpu:
            item.add_marker("on_cpu")
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    try:
        return (yield)
    except Exception as error:
        if DEVICE == pretend.NAME and pretend.is_lacking(error):
            pytest.skip("a device of pretence lacks an operation of torch")
        raise

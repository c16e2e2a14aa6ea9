"""The device of the suite: ``L0FUNC_TEST_DEVICE=cuda pytest`` runs what can run there."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch

DEVICE = os.environ.get("L0FUNC_TEST_DEVICE", "cpu")
"""The device of every tensor that a test makes without naming one."""

RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
"""Of torch, as (2, 13)."""

INITIALISERS_HAVE_KEYS = "generator" in inspect.signature(torch.nn.init.normal_).parameters
"""Not on torch 2.1, where they draw from the global generator and are refused."""

WHOLE_MODULES = pytest.mark.xfail(
    (2, 9) <= RELEASE <= (2, 11),
    reason="the compilers of torch 2.9 and 2.11 do not follow the attributes of an L0Module",
    strict=True,
)
"""An L0Module in one graph, as ``fullgraph=True`` and a strict export want it."""


def marked_on_cpu(names: Iterable[str], alone: Collection[str]) -> list[Any]:
    """The names as parameters of a test; those that work on the CPU alone are marked.

    On torch before 2.13 the names may lack operations that it did not have yet.
    """
    names = list(names)
    assert set(alone) <= set(names) or RELEASE < (2, 13), set(alone) - set(names)
    return [pytest.param(n, marks=[pytest.mark.on_cpu] * (n in alone)) for n in names]


def seeded_generator(seed: int) -> torch.Generator:
    """A generator on the device of the suite: torch takes no other there."""
    return torch.Generator("cuda" if DEVICE == "cuda" else "cpu").manual_seed(seed)

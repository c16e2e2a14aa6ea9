"""The device of the suite: ``L0FUNC_TEST_DEVICE=cuda pytest`` runs what can run there."""

from __future__ import annotations

import os

import torch

DEVICE = os.environ.get("L0FUNC_TEST_DEVICE", "cpu")
"""The device of every tensor that a test makes without naming one."""


def seeded_generator(seed: int) -> torch.Generator:
    """A generator on the device of the suite: torch takes no other there."""
    return torch.Generator("cuda" if DEVICE == "cuda" else "cpu").manual_seed(seed)

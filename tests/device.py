"""The device of the suite: ``L0FUNC_TEST_DEVICE=cuda pytest`` runs what can run there."""

from __future__ import annotations

import os

DEVICE = os.environ.get("L0FUNC_TEST_DEVICE", "cpu")
"""The device of every tensor that a test makes without naming one."""

"""Imported by tests that need shards on a CPU: on a torch before 2.7 it skips them.

torch 2.6 has ``fully_shard``, which needs a card there, and its ``distribute_tensor`` sends from
the first process.
"""

from __future__ import annotations

import inspect

import pytest

REASON = "before torch 2.7 no tensor is sharded on a CPU"
_tensor = pytest.importorskip("torch.distributed.tensor", reason=REASON)
# torch 2.4 has the module, and nothing in it.
_distribute = getattr(_tensor, "distribute_tensor", None)
if _distribute is None or "src_data_rank" not in inspect.signature(_distribute).parameters:
    pytest.skip(REASON, allow_module_level=True)

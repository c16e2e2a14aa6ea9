"""One mesh of each shape over a group: its threads poll as long as the process lives."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch.distributed.device_mesh import init_device_mesh


@cache
def mesh_of(shape: tuple[int, ...], names: tuple[str, ...] | None = None) -> Any:
    """The mesh of this shape over all processes, the same at every call in one process."""
    return init_device_mesh("cpu", shape, mesh_dim_names=names)

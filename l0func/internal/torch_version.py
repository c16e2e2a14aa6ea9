"""The part of torch that sharding needs: its public module of DTensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch


def check_torch() -> None:
    """Refuse a torch without public DTensors.

    Raises:
        ValueError: ``torch.distributed.tensor`` has no DTensor, or does not import.
    """
    distributed_tensor()


def distributed_tensor() -> Any:
    """The module ``torch.distributed.tensor``, imported when it is needed.

    Raises:
        ValueError: This torch has no such module, or no DTensor in it.
    """
    try:
        home: Any = import_module("torch.distributed.tensor")
    except ImportError:
        home = None
    if not hasattr(home, "DTensor"):
        raise ValueError(
            "Tensors that are spread over processes need torch.distributed.tensor and "
            f"torch.distributed.fsdp.fully_shard, public since torch 2.6; this is torch "
            f"{torch.__version__}."
        )
    return home

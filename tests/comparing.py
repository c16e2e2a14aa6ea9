"""Comparisons of pytrees that tests share."""

from __future__ import annotations

from typing import Any

import optree
import torch
from torch import Tensor


def equal(a: Any, b: Any) -> bool:
    pairs = zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def close(a: Any, b: Any) -> None:
    optree.tree_map(
        lambda x, y: torch.testing.assert_close(x, y) if isinstance(x, Tensor) else None, a, b
    )
